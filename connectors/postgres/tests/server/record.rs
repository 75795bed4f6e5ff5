//! Records what the output plugin of a real server says, for the decoder's tests.

use std::fmt::Write as _;

use crate::field::Field;

/// Every kind of message of protocol 1: begin, origin, relation, type, insert, update (without and
/// with the old key or row, with a value left out), delete, truncate, logical message, commit.
const CHANGES: &str = "
    SELECT pg_replication_origin_session_setup('elsewhere');
    BEGIN;
    INSERT INTO d VALUES (1, 'Ärger', 12.50, repeat('abcdefghij', 250), 'glad',
      '2024-02-29 12:34:56.789+02', true, '{\"a\": [1, null]}', '\\xdeadbeef');
    INSERT INTO d (id) VALUES (2);
    UPDATE d SET price = 13 WHERE id = 1;
    UPDATE d SET id = 3 WHERE id = 1;
    DELETE FROM d WHERE id = 2;
    INSERT INTO f VALUES (1, NULL), (2, 'two');
    UPDATE f SET b = 'b' WHERE a = 1;
    DELETE FROM f WHERE a = 2;
    SELECT pg_logical_emit_message(true, 'tidelock', 'inside');
    COMMIT;
    SELECT pg_logical_emit_message(false, 'tidelock', 'outside');
    BEGIN;
    ALTER TABLE f ADD c uuid;
    INSERT INTO f VALUES (3, 'x', '0f0e0d0c-0b0a-0908-0706-050403020100');
    TRUNCATE d, f CASCADE;
    COMMIT;";

#[tokio::test]
#[ignore = "writes src/pgoutput/recorded.hex"]
async fn record_pgoutput() {
    let field = Field::new(
        "CREATE TYPE mood AS ENUM ('sad', 'glad');
         CREATE TABLE d (id int PRIMARY KEY, name varchar(20), price numeric(12,2), doc text,
           feel mood, at timestamptz, ok bool, j jsonb, raw bytea);
         ALTER TABLE d ALTER doc SET STORAGE EXTERNAL;
         CREATE TABLE f (a bigint, b text); ALTER TABLE f REPLICA IDENTITY FULL;
         CREATE PUBLICATION p FOR TABLE d, f;
         SELECT pg_replication_origin_create('elsewhere')",
    )
    .await;
    field.sql("SELECT pg_create_logical_replication_slot('s', 'pgoutput')").await;
    let client = field.server.client("erp").await.expect("client");
    for statement in CHANGES.split(";\n") {
        client.batch_execute(statement).await.expect(statement);
    }
    let messages = "SELECT encode(data, 'hex') FROM pg_logical_slot_get_binary_changes('s', NULL, NULL, \
                    'proto_version', '1', 'publication_names', 'p', 'messages', 'true')";
    let version = field.one("SELECT current_setting('server_version')").await;
    let mut text = format!("# pgoutput, protocol 1, of PostgreSQL {version}: a message a line.\n");
    for row in field.server.rows("erp", messages).await.expect("messages") {
        writeln!(text, "{}", row[0].as_deref().expect("data")).expect("text");
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/pgoutput/recorded.hex");
    std::fs::write(path, text).expect("written");
}

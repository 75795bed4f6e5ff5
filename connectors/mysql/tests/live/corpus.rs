//! The corpus of `src/fuzz.rs`.

use super::*;

/// Writes the corpus of `src/fuzz.rs` anew, from the server that the version matrix asks for.
#[tokio::test]
#[ignore = "writes into the source tree"]
async fn record_the_corpus() {
    let server = server().await;
    let mysql = connector(&server).identify().await.unwrap().version.starts_with("MySQL");
    let (uuid, compress, none) = if mysql {
        ("binary(16)", "SET binlog_transaction_compression = ON", "MINIMAL")
    } else {
        (
            "uuid",
            "SET GLOBAL log_bin_compress = ON; SET GLOBAL log_bin_compress_min_len = 10",
            "NO_LOG",
        )
    };
    let table = format!(
        "CREATE TABLE t (id mediumint PRIMARY KEY, tiny tinyint unsigned, big bigint unsigned, \
         small smallint, d decimal(65,30), dd decimal(10,2), fixed binary(4), v varchar(300), \
         l varchar(20) CHARACTER SET latin1, f float, g double, da date, dt datetime(6), \
         ts timestamp(3) NULL, ti time(6), e enum('a','b''c'), b blob, u {uuid}, j json, y year, \
         bi bit(9), ch char(5), ge geometry, se set('x','y'), tail int)"
    );
    let row = |id: i32| {
        format!(
            "INSERT INTO t VALUES ({id}, 255, 18446744073709551615, -3, -0.5, -12.50, 0x61000000, 'Köln😀', 'é€', \
             1.1, 0.1, '2024-02-29', '2024-01-02 03:04:05.678901', '2024-01-01 09:00:00.5', '-838:59:58.5', \
             'b''c', 0x00ff00, NULL, '{{\"a\": [1, 2.5, null, \"x\", -70000, {{\"k\": true}}]}}', 2000, 257, 'ab', \
             ST_GeomFromText('POINT(1 2)'), 'y', 42)"
        )
    };
    let (one, two, three) = (row(-5), row(6), row(7));
    server.sql("crm", "FLUSH BINARY LOGS").await.unwrap();
    server
        .sql("crm", &format!("{table}; {one}; {two}; UPDATE t SET v = 'new', e = NULL; DELETE FROM t WHERE id = 6"))
        .await
        .unwrap();
    server
        .sql("crm", "SET SESSION binlog_row_image = MINIMAL; UPDATE t SET tail = 1; DELETE FROM t")
        .await
        .unwrap();
    server
        .sql("crm", &format!("SET GLOBAL binlog_row_metadata = {none}; CREATE TABLE o (id int, e enum('x')); \
             INSERT INTO o VALUES (1, 'x'), (2, NULL); SET GLOBAL binlog_row_metadata = FULL; \
             CREATE TABLE n (id int PRIMARY KEY, v text); BEGIN; INSERT INTO n VALUES (1, 'a'), (2, NULL); \
             SAVEPOINT s; INSERT INTO n VALUES (3, 'c'); ROLLBACK TO s; INSERT INTO n VALUES (4, 'd'); COMMIT; \
             TRUNCATE TABLE o; RENAME TABLE o TO p; DROP TABLE p; ALTER TABLE n ADD x int"))
        .await
        .unwrap();
    server.sql("crm", &format!("{compress}; {three}; UPDATE t SET v = REPEAT('z', 200); DELETE FROM t; ANALYZE TABLE t")).await.unwrap();
    let file = server.rows("crm", "SHOW BINARY LOGS").await.unwrap().pop().unwrap();
    let bytes = std::fs::read(server.data_dir().join(file[0].as_ref().unwrap())).unwrap();
    let version = server.one("crm", "SELECT VERSION()").await.unwrap();
    let mut text =
        format!("# {version}: type, server, seconds, end, bytes without header and checksum\n");
    let mut rest = &bytes[4..];
    while rest.len() > 19 {
        let le = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
        let size = le(9) as usize;
        let hex: String = rest[19..size - 4].iter().map(|b| format!("{b:02x}")).collect();
        text += &format!("{} {} {} {} {hex}\n", rest[4], le(5), le(0), le(13));
        rest = &rest[size..];
    }
    let name = if mysql { "mysql" } else { "mariadb" };
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus");
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(format!("{folder}/{name}.txt"), text).unwrap();
}

//! Tables that a view reads and no track names.

use super::SOON;
use super::daemon::command;
use super::tracks::World;

const TABLES: &[&str] = &[
    "CREATE TABLE shelf (id int NOT NULL PRIMARY KEY, kind int NOT NULL, label varchar(20))",
    "CREATE TABLE kind (id int NOT NULL PRIMARY KEY, name varchar(20))",
    "CREATE TABLE word (id int NOT NULL PRIMARY KEY, note varchar(20))",
    "ALTER TABLE shelf REPLICA IDENTITY FULL",
    "CREATE VIEW named AS SELECT k.id, k.name, w.note FROM kind k LEFT JOIN word w ON w.id = k.id",
    "CREATE VIEW shown AS SELECT s.id, s.label, n.name FROM shelf s JOIN named n ON n.id = s.kind WHERE s.label <> 'from a.b'",
];
const SHOWN: &str =
    "CREATE TABLE shown (id int NOT NULL PRIMARY KEY, label varchar(20), name varchar(20))";
const ROWS: &str = "SELECT id, label, name FROM shown ORDER BY id";

fn mapped(tracks: &str) -> String {
    format!("[[mappings]]\nfrom = \"a.shown\"\nto = \"b.shown\"\ntracks = {{ {tracks} }}\n")
}

/// The notes of the mapping, once they are so many.
async fn notes(world: &World, count: usize) -> String {
    let of = |flows: &[serde_json::Value]| {
        let mappings = flows.iter().filter_map(|f| f["mappings"].as_array()).flatten();
        let notes = mappings.filter_map(|m| m["notes"].as_array()).flatten();
        notes.map(|n| n.as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    world.daemon.wait("notes", SOON, |flows| of(flows).len() == count).await;
    of(&world.daemon.flows()).join("\n")
}

async fn forgotten(postgres_source: bool) {
    let world = World::new(postgres_source, TABLES, &[SHOWN], &mapped("'a.shelf' = \"id\"")).await;
    let schema = if postgres_source { "public" } else { "db" };
    let said = |table: &str| {
        format!("the view {schema}.shown reads {schema}.{table}, which no track names")
    };
    let check = || command(&world.folder.path().join("tidelock.toml"), &["check"]).1;
    let (checked, noted) = (check(), notes(&world, 2).await);
    for told in [&checked, &noted] {
        assert!(told.contains(&said("kind")) && told.contains(&said("word")), "{told}");
        assert!(told.contains(&format!("\"a.{schema}.word\" = []")), "{told}");
    }
    assert!(!checked.contains(&said("shelf")), "{checked}");

    world.reload(&mapped(&format!(
        "'a.shelf' = \"id\", \"a.{schema}.word\" = [], 'a.kind' = {{ keys = \"SELECT id FROM {schema}.shelf WHERE kind IN (:id)\" }}"
    )));
    notes(&world, 0).await;
    assert!(!check().contains("which no track names"));
    for sql in [
        "INSERT INTO kind VALUES (1, 'red'), (2, 'blue')",
        "INSERT INTO shelf VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 1, 'from a.b')",
        "UPDATE kind SET name = 'green' WHERE id = 1",
    ] {
        world.a.sql(sql).await;
    }
    world.equal(ROWS, ROWS).await;
    world.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_forgotten_is_told_from_postgres() {
    forgotten(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_forgotten_is_told_from_mariadb() {
    forgotten(false).await;
}

/// A view of PostgreSQL goes on reading the table that it was made with, whatever its name.
#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_goes_on_reading_a_renamed_table_is_told() {
    let source = [
        TABLES[0],
        TABLES[3],
        "CREATE VIEW shown AS SELECT id, label, '' AS name FROM shelf",
        "INSERT INTO shelf VALUES (1, 1, 'a')",
    ];
    let world = World::new(true, &source, &[SHOWN], &mapped("'a.shelf' = \"id\"")).await;
    world.equal(ROWS, ROWS).await;
    assert_eq!(notes(&world, 0).await, "");
    world
        .a
        .sql("BEGIN; ALTER TABLE shelf RENAME TO shelf_old; CREATE TABLE public.shelf (LIKE shelf_old INCLUDING ALL); \
              INSERT INTO shelf SELECT * FROM shelf_old; COMMIT; ALTER TABLE shelf REPLICA IDENTITY FULL")
        .await;
    let told = notes(&world, 1).await;
    assert!(
        told.contains("the view public.shown reads public.shelf_old, which no track names"),
        "{told}"
    );
    assert!(told.contains("make the view anew"), "{told}");

    world
        .a
        .sql(
            "CREATE OR REPLACE VIEW public.shown AS SELECT id, label, '' AS name FROM public.shelf",
        )
        .await;
    let (code, said) = world.daemon.command(&["resync", "shown"]);
    assert_eq!(code, 0, "{said}");
    notes(&world, 0).await;
    world.a.sql("UPDATE shelf SET label = 'b'; INSERT INTO shelf VALUES (2, 1, 'c')").await;
    world.equal(ROWS, ROWS).await;
    world.daemon.stop();
}

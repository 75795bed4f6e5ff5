//! Procedures as targets where it is hard: what they set in the session, what becomes of them while the flow runs, and what they raise.

use super::tracks::World;

const THINGS: &str = "SELECT id, name FROM p ORDER BY id";
const OTHERS: &str = "SELECT id FROM q ORDER BY id";
const GOT: &str = "SELECT id, name FROM o ORDER BY id";

const MAPPED: &str = "[[mappings]]\nfrom = \"a.p\"\nto = { call = \"b.put_o\", delete = \"b.remove_o\" }\nkey = [\"id\"]\n\
    [[mappings]]\nfrom = \"a.q\"\nto = \"b.q\"\n";

/// What a procedure sets in its session holds for it alone: rows that are written after it are what they were.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_procedure_sets_at_mariadb_does_not_reach_what_is_written_after_it() {
    let source = [
        "CREATE TABLE p (id int NOT NULL PRIMARY KEY, name varchar(20) NOT NULL)",
        "CREATE TABLE q (id int NOT NULL PRIMARY KEY, name varchar(20) NOT NULL, at timestamptz NOT NULL)",
    ];
    let target = [
        "CREATE TABLE o (id int NOT NULL PRIMARY KEY, name varchar(20) NOT NULL)",
        "CREATE TABLE q (id int NOT NULL PRIMARY KEY, name varchar(20) CHARACTER SET utf8mb4 NOT NULL, at timestamp(6) NOT NULL)",
        "CREATE PROCEDURE put_o(p_id int, p_name varchar(20)) BEGIN \
         SET time_zone = '+05:00', sql_mode = '', foreign_key_checks = 0; SET NAMES latin1; \
         INSERT INTO o VALUES (p_id, p_name) ON DUPLICATE KEY UPDATE name = p_name; SELECT * FROM o; END",
        "CREATE PROCEDURE remove_o(p_id int) DELETE FROM o WHERE id = p_id",
    ];
    let mut world = World::new(true, &source, &target, MAPPED).await;
    let want = "SELECT id, upper(encode(convert_to(name, 'UTF8'), 'hex')), extract(epoch from at)::bigint FROM q ORDER BY id";
    let have = "SELECT id, hex(name), floor(unix_timestamp(at)) FROM q ORDER BY id";
    for (id, end) in [(1, "COMMIT"), (2, "COMMIT"), (3, "COMMIT")] {
        world
            .a
            .sql(&format!(
                "BEGIN; INSERT INTO p VALUES ({id}, 'Ä'), ({id}0, 'é'); INSERT INTO q VALUES ({id}, 'Ö', '2026-01-02 03:04:05+00'); {end}"
            ))
            .await;
        world.equal(want, have).await;
        world.equal(THINGS, GOT).await;
        if id == 2 {
            world.daemon.kill_and_start();
        }
    }
    world.a.sql("INSERT INTO q VALUES (9, 'Ü', '2026-01-02 03:04:05+00')").await;
    world.equal(want, have).await;
    world.daemon.stop();
}

/// The same on PostgreSQL, and its commits stay durable.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_function_sets_at_postgres_does_not_reach_what_is_written_after_it() {
    let source = [
        "CREATE TABLE p (id int NOT NULL PRIMARY KEY, name varchar(20) NOT NULL)",
        "CREATE TABLE q (id int NOT NULL PRIMARY KEY, name text NOT NULL, at timestamptz NOT NULL, d date, i interval, b bytea, n numeric, f float8, m money)",
    ];
    let target = [
        "CREATE TABLE o (id int NOT NULL PRIMARY KEY, name varchar(20) NOT NULL)",
        "CREATE TABLE q (id int NOT NULL PRIMARY KEY, name text NOT NULL, at timestamptz NOT NULL, d date, i interval, b bytea, n numeric, f float8, m money, \
         mode text DEFAULT current_setting('synchronous_commit'))",
        "CREATE FUNCTION put_o(p_id int, p_name varchar) RETURNS SETOF int LANGUAGE plpgsql AS $$ BEGIN \
         SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German, DMY'; SET IntervalStyle = 'sql_standard'; SET bytea_output = 'escape'; \
         SET search_path = nowhere; SET synchronous_commit = off; SET standard_conforming_strings = off; SET extra_float_digits = -5; \
         INSERT INTO public.o VALUES (p_id, p_name) ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name; RETURN QUERY SELECT id FROM public.o; END $$",
        "CREATE FUNCTION remove_o(p_id int) RETURNS void LANGUAGE sql AS $$ DELETE FROM public.o WHERE id = p_id $$",
    ];
    let world = World::between((true, true), &source, &target, MAPPED).await;
    let all = "SELECT id, name, at, d, i, b, n, f, m FROM q ORDER BY id";
    for id in 1..4 {
        world
            .a
            .sql(&format!(
                "BEGIN; INSERT INTO p VALUES ({id}, 'Ä'); INSERT INTO q VALUES ({id}, 'a\\b', '2026-01-02 03:04:05+00', '2026-03-04', \
                 '-1 year 2 months -3 days 04:05:06', '\\xff00', 1.50, 0.1, 12.34); COMMIT"
            ))
            .await;
        world.equal(all, all).await;
        world.equal(THINGS, GOT).await;
    }
    assert_eq!(world.b.one("SELECT string_agg(DISTINCT mode, ',') FROM q").await, "on");
    world.daemon.stop();
}

/// A routine that is dropped, made anew, or made another one while the flow runs stops its mapping alone, and comes back.
async fn replaced(postgres_target: bool) {
    let source = [
        "CREATE TABLE p (id int NOT NULL PRIMARY KEY, name varchar(20) NOT NULL)",
        "CREATE TABLE q (id int NOT NULL PRIMARY KEY)",
    ];
    let put = |parameter: &str, value: &str| match postgres_target {
        true => format!(
            "CREATE PROCEDURE public.put_o(p_id int, {parameter} varchar) LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.o VALUES (p_id, {value}) ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name; END $$"
        ),
        false => format!(
            "CREATE PROCEDURE put_o(p_id int, {parameter} varchar(20)) INSERT INTO o VALUES (p_id, {value}) ON DUPLICATE KEY UPDATE name = {value}"
        ),
    };
    let remove = match postgres_target {
        true => {
            "CREATE PROCEDURE remove_o(p_id int) LANGUAGE sql AS $$ DELETE FROM public.o WHERE id = p_id $$"
        }
        false => "CREATE PROCEDURE remove_o(p_id int) DELETE FROM o WHERE id = p_id",
    };
    // The scratch server's role has a schema of its own by now.
    let drop = if postgres_target { "DROP PROCEDURE public.put_o" } else { "DROP PROCEDURE put_o" };
    let first = put("p_name", "p_name");
    let target = [
        "CREATE TABLE o (id int NOT NULL PRIMARY KEY, name varchar(20) NOT NULL)",
        "CREATE TABLE q (id int NOT NULL PRIMARY KEY)",
        &first,
        remove,
    ];
    let world = World::new(!postgres_target, &source, &target, MAPPED).await;
    let World { a, b, .. } = &world;
    let mut id = 0;
    let mut add = async || {
        id += 1;
        a.sql(&format!("INSERT INTO p VALUES ({id}, 'n{id}')")).await;
        a.sql(&format!("INSERT INTO q VALUES ({id})")).await;
    };
    add().await;
    world.equal(THINGS, GOT).await;
    let stopped = async |words: &[&str]| {
        world.equal(OTHERS, OTHERS).await;
        world.state("p", "stopped").await;
        let flows = world.daemon.flows();
        let error = flows[0]["mappings"][0]["error"].to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    // Dropped.
    b.sql(drop).await;
    add().await;
    stopped(&["put_o"]).await;
    // Made anew.
    b.sql(&first).await;
    let (code, said) = world.daemon.command(&["resync", "p"]);
    assert_eq!(code, 0, "{said}\n{}", world.daemon.log());
    world.equal(THINGS, GOT).await;
    world.state("p", "streaming").await;
    // Another body, between two calls.
    b.sql(drop).await;
    b.sql(&put("p_name", "concat(p_name, '!')")).await;
    add().await;
    world.equal(OTHERS, OTHERS).await;
    world
        .equal(
            "SELECT id, concat(name, '!') FROM p WHERE id = 3",
            "SELECT id, name FROM o WHERE id = 3",
        )
        .await;
    // Other parameters.
    b.sql(drop).await;
    b.sql(&put("p_title", "p_title")).await;
    add().await;
    if postgres_target {
        stopped(&["put_o"]).await;
    } else {
        // Given by place there.
        world.equal(OTHERS, OTHERS).await;
    }
    b.sql(drop).await;
    b.sql(&first).await;
    if postgres_target {
        assert_eq!(world.daemon.command(&["resync", "p"]).0, 0);
    }
    add().await;
    world.state("p", "streaming").await;
    let late = |table: &str| format!("SELECT id, name FROM {table} WHERE id > 3 ORDER BY id");
    world.equal(&late("p"), &late("o")).await;
    world.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_routine_that_goes_away_stops_its_mapping_alone_at_postgres() {
    replaced(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_routine_that_goes_away_stops_its_mapping_alone_at_mariadb() {
    replaced(false).await;
}

/// Deletes that the log tells while a mapping of a table to a routine stands still are told to the operator.
async fn told(postgres_source: bool) {
    let source = [
        "CREATE TABLE p (id int NOT NULL PRIMARY KEY, name varchar(20) NOT NULL)",
        "CREATE TABLE q (id int NOT NULL PRIMARY KEY)",
    ];
    let target = match postgres_source {
        true => [
            "CREATE PROCEDURE put_o(p_id int, p_name varchar(20)) INSERT INTO o VALUES (p_id, p_name) ON DUPLICATE KEY UPDATE name = p_name",
            "CREATE PROCEDURE remove_o(p_id int) DELETE FROM o WHERE id = p_id",
        ],
        false => [
            "CREATE PROCEDURE put_o(p_id int, p_name varchar) LANGUAGE sql AS $$ INSERT INTO public.o VALUES (p_id, p_name) ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name $$",
            "CREATE PROCEDURE remove_o(p_id int) LANGUAGE sql AS $$ DELETE FROM public.o WHERE id = p_id $$",
        ],
    };
    let target = [
        "CREATE TABLE o (id int NOT NULL PRIMARY KEY, name varchar(20) NOT NULL)",
        "CREATE TABLE q (id int NOT NULL PRIMARY KEY)",
        target[0],
        target[1],
    ];
    let world = World::new(postgres_source, &source, &target, MAPPED).await;
    world.a.sql("INSERT INTO p VALUES (1, 'a'), (2, 'b')").await;
    world.equal(THINGS, GOT).await;
    assert_eq!(world.daemon.command(&["pause", "p"]).0, 0);
    world.a.sql("DELETE FROM p WHERE id = 1").await;
    world.a.sql("INSERT INTO q VALUES (1)").await;
    world.equal(OTHERS, OTHERS).await;
    assert_eq!(world.daemon.command(&["resume", "p"]).0, 0);
    world.a.sql("INSERT INTO p VALUES (3, 'c')").await;
    let last = |table: &str| format!("SELECT id, name FROM {table} WHERE id = 3");
    world.equal(&last("p"), &last("o")).await;
    world.state("p", "streaming").await;
    let said = world.daemon.command(&["status"]).1;
    let flows = world.daemon.flows();
    let notes = flows[0]["mappings"][0]["notes"].to_string();
    assert!(notes.contains("deleted at the source"), "{said}\n{flows:#?}");
    world.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_routine_may_have_missed_is_told_at_mariadb() {
    told(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_routine_may_have_missed_is_told_at_postgres() {
    told(false).await;
}

/// What a routine raises names no value of a row, in whatever way it is raised.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_procedure_raises_anew_keeps_its_words_and_tells_no_value() {
    let source = [
        "CREATE TABLE p (id int NOT NULL PRIMARY KEY, name varchar(20) NOT NULL)",
        "CREATE TABLE q (id int NOT NULL PRIMARY KEY)",
    ];
    let target = [
        "CREATE TABLE o (id int NOT NULL PRIMARY KEY, name varchar(20) NOT NULL, UNIQUE (name))",
        "CREATE TABLE q (id int NOT NULL PRIMARY KEY)",
        "CREATE PROCEDURE put_o(p_id int, p_name varchar(20)) BEGIN \
         DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN \
         SET @told = concat('taken already: ', p_name); RESIGNAL SET MESSAGE_TEXT = @told; END; \
         INSERT INTO o VALUES (p_id, p_name); END",
        "CREATE PROCEDURE remove_o(p_id int) DELETE FROM o WHERE id = p_id",
    ];
    let world = World::new(true, &source, &target, MAPPED).await;
    world.a.sql("INSERT INTO p VALUES (1, 'geheimnis'), (2, 'geheimnis')").await;
    world.a.sql("INSERT INTO q VALUES (1)").await;
    world.equal(OTHERS, OTHERS).await;
    world.state("p", "stopped").await;
    let said = format!("{:#?}\n{}", world.daemon.flows(), world.daemon.log());
    assert!(said.contains("taken already"), "{said}");
    assert!(!said.to_lowercase().contains("geheimnis"), "{said}");
    world.daemon.stop();
}

//! Copies of what is written both ways, while the target's users write.

use std::time::{Duration, Instant};

use super::SOON;
use super::daemon::Daemon;
use super::rows::equal;
use super::snapshot::Side;

/// A row that the target's users have changed, or removed, is at the source what it was, because the other direction cannot write it there.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_takes_back_nothing_that_the_other_direction_has_still_to_bring() {
    for (ours, verb) in
        [(true, "backfill"), (false, "backfill"), (true, "resync"), (false, "resync")]
    {
        let (a, b) = (Side::new(ours).await, Side::new(!ours).await);
        let folder = tempfile::tempdir().expect("folder");
        let systems = [("a", a.url()), ("b", b.url())];
        let text = super::config(folder.path(), &systems, &[("a", "b"), ("b", "a")]);
        let daemon = Daemon::start(folder.path(), &text);
        daemon.streaming().await;
        a.sql("INSERT INTO item VALUES (1, 1, 'a'), (2, 2, 'a'), (3, 3, 'a')").await;
        let all = super::ITEMS;
        equal(&daemon, (&a, all), (&b, all)).await;
        let held = a.hold(&["BEGIN", "SELECT id FROM item WHERE id = 1 FOR UPDATE"]).await;
        b.sql("UPDATE item SET qty = 99 WHERE id = 1").await;
        b.sql("DELETE FROM item WHERE id = 2").await;
        assert_eq!(daemon.command(&[verb, "a:b/item"]).0, 0);
        let want = "SELECT concat(count(*), ' ', sum(qty)) FROM item";
        let began = Instant::now();
        loop {
            assert_eq!(
                b.one(want).await,
                "2 102",
                "{verb} took back what was written:\n{}",
                daemon.log()
            );
            let flows = daemon.flows();
            let flow = flows.iter().find(|flow| flow["flow"] == "a:b");
            if flow.is_some_and(|flow| flow["mappings"][0]["notes"].to_string().contains("waits")) {
                break;
            }
            assert!(began.elapsed() < SOON, "{flows:#?}\n{}", daemon.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        drop(held);
        equal(&daemon, (&b, all), (&a, all)).await;
        daemon
            .wait("copied", SOON, |flows| {
                flows.iter().all(|flow| flow["mappings"][0]["snapshot"]["phase"] == "done")
            })
            .await;
        assert_eq!(b.one(want).await, "2 102", "{}", daemon.log());
        equal(&daemon, (&a, all), (&b, all)).await;
        daemon.stop();
    }
}

/// Both directions are compared, the second asked for while the first is under way: what users change meanwhile, on either side, is brought to the other.
#[tokio::test(flavor = "multi_thread")]
async fn comparing_both_directions_at_once_takes_back_nothing() {
    for (ours, [first, second], verb) in [
        (true, ["a:b", "b:a"], "resync"),
        (false, ["b:a", "a:b"], "resync"),
        (true, ["b:a", "a:b"], "backfill"),
    ] {
        let (a, b) = (Side::new(ours).await, Side::new(!ours).await);
        let folder = tempfile::tempdir().expect("folder");
        let systems = [("a", a.url()), ("b", b.url())];
        let text = super::config(folder.path(), &systems, &[("a", "b"), ("b", "a")])
            + "[defaults]\nsnapshot_rows_per_second = 1000\n";
        let mut daemon = Daemon::start(folder.path(), &text);
        daemon.streaming().await;
        let (from, to) = if first == "a:b" { (&a, &b) } else { (&b, &a) };
        let rows: Vec<String> = (1..=4_000).map(|id| format!("({id}, 1, 'x')")).collect();
        from.sql(&format!("INSERT INTO item VALUES {}", rows.join(", "))).await;
        let all = super::ITEMS;
        equal(&daemon, (from, all), (to, all)).await;
        let copy = |flows: &[serde_json::Value], name: &str| {
            let flow = flows.iter().find(|flow| flow["flow"] == name).cloned().unwrap_or_default();
            flow["mappings"][0]["snapshot"].clone()
        };
        assert_eq!(daemon.command(&["resync", &format!("{first}/item")]).0, 0);
        daemon
            .wait("under way", SOON, |flows| {
                let copy = copy(flows, first);
                copy["phase"] == "rows" && copy["done"].as_u64() > Some(0)
            })
            .await;
        assert_eq!(daemon.command(&[verb, &format!("{second}/item")]).0, 0);
        to.sql("UPDATE item SET qty = 77 WHERE id > 3990").await;
        to.sql("INSERT INTO item VALUES (5000, 77, 'new')").await;
        to.sql("DELETE FROM item WHERE id = 3980").await;
        from.sql("UPDATE item SET qty = 66 WHERE id = 3970").await;
        if verb == "backfill" {
            daemon.kill_and_start();
        }
        daemon
            .wait("both copied", 2 * SOON, |flows| {
                [first, second].iter().all(|name| copy(flows, name)["phase"] == "done")
            })
            .await;
        equal(&daemon, (from, all), (to, all)).await;
        let said = to.one("SELECT concat(count(*), ' ', sum(qty)) FROM item").await;
        assert_eq!(said, format!("4000 {}", 3_988 + 11 * 77 + 66), "{}", daemon.log());
        daemon.stop();
    }
}

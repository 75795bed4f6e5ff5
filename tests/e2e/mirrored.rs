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

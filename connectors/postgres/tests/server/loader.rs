//! What sessions do that load beside the one that holds the flow.

use std::time::Duration;

use tidelock_core::{
    ErrorKind, HopList, Lease, LogEvent, Mark, OpenSink, Position, SystemId, WriteOp,
};

use crate::field::{Field, commits};
use crate::writer::{INT, batch, mark, started, target};

/// Becomes the holder when the one before has gone.
async fn take(field: &Field) -> OpenSink {
    loop {
        match field.connector.open_sink(&field.sink_spec()).await.expect("sink") {
            Lease::Held(open) => return open,
            Lease::Busy { .. } => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

#[tokio::test]
async fn loaders_commit_side_by_side_and_a_takeover_ends_what_they_have_not_committed() {
    let field = Field::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    let table = target(&field, "t", false).await;
    let (spec, connector) = (field.sink_spec(), &field.connector);
    let mut open = started(&field).await;
    open.sink.save_position(&mark(1, 1), &Position::new("0/7")).await.expect("save");
    let mut loaders = Vec::new();
    for lane in 1..=2 {
        loaders.push(connector.open_loader(&spec, 1, lane).await.expect("loader"));
    }
    // Both transactions are open at once.
    for (seq, round) in [(1, 0), (2, 10)] {
        for (i, loader) in (1i64..).zip(&mut loaders) {
            loader.begin(&mark(1, seq)).await.expect("begin");
            let row = batch(&table, WriteOp::Upsert, &[0], &[&[INT(round + i)]]);
            loader.write(&[row]).await.expect("write");
        }
        for loader in &mut loaders {
            loader.commit(&Position::new("0/7"), 0).await.expect("commit");
        }
    }
    assert_eq!(field.one("SELECT string_agg(id::text, ' ' ORDER BY id) FROM t").await, "1 2 11 12");
    // The flow's own row is as it was, and goes on.
    let progress = connector.read_progress("p").await.expect("progress");
    assert_eq!(progress.len(), 1);
    assert_eq!((progress[0].epoch, progress[0].seq), (1, 1));
    open.sink.save_position(&mark(1, 2), &Position::new("0/8")).await.expect("save");
    // One hangs in an open transaction while another process takes the flow over.
    let mut hanging = loaders.remove(0);
    hanging.begin(&mark(1, 3)).await.expect("begin");
    let row = batch(&table, WriteOp::Upsert, &[0], &[&[INT(99)]]);
    hanging.write(&[row]).await.expect("write");
    drop(open);
    let taken = tokio::time::timeout(Duration::from_secs(20), take(&field)).await.expect("in time");
    assert_eq!(taken.progress.as_ref().map(|p| p.epoch), Some(2));
    hanging.commit(&Position::new("0/8"), 0).await.expect_err("it was ended");
    assert_eq!(field.one("SELECT count(*) FROM t WHERE id = 99").await, "0");
    // Nor does one get in that comes later with the old epoch, whether it was open before or not.
    let error = connector.open_loader(&spec, 1, 1).await.err().expect("old");
    assert_eq!(error.kind(), ErrorKind::Fenced);
    let mut late = connector.open_loader(&spec, 2, 1).await.expect("loader");
    field.sql("UPDATE tidelock.progress SET epoch = 3 WHERE lane = 0").await;
    late.begin(&mark(2, 1)).await.expect("begin");
    let row = batch(&table, WriteOp::Upsert, &[0], &[&[INT(98)]]);
    let error = late.write(&[row]).await.expect_err("fenced");
    assert_eq!(error.kind(), ErrorKind::Fenced);
    drop(late);
    assert_eq!(field.one("SELECT count(*) FROM t").await, "4");
}

#[tokio::test]
async fn a_takeover_waits_for_a_commit_that_it_may_not_end() {
    let field = Field::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut open = started(&field).await;
    let mut loader = field.connector.open_loader(&field.sink_spec(), 1, 1).await.expect("loader");
    let table = target(&field, "t", false).await;
    loader.begin(&mark(1, 1)).await.expect("begin");
    let row = batch(&table, WriteOp::Upsert, &[0], &[&[INT(1)]]);
    loader.write(&[row]).await.expect("write");
    // As a successor does it, but for the ending of our session.
    let raising = field.sql("UPDATE tidelock.progress SET epoch = epoch + 1 WHERE lane = 0");
    let committing = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(field.one("SELECT epoch FROM tidelock.progress WHERE lane = 0").await, "1");
        loader.commit(&Position::new("0/1"), 0).await
    };
    let ((), committed) = tokio::join!(raising, committing);
    committed.expect("before the epoch was raised");
    assert_eq!(field.one("SELECT count(*) FROM t").await, "1");
    let error = open.sink.save_position(&mark(1, 1), &Position::new("0/9")).await.expect_err("old");
    assert_eq!(error.kind(), ErrorKind::Fenced);
}

#[tokio::test]
async fn a_readers_first_change_of_a_loaders_transaction_is_its_mark() {
    let field = Field::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    let open = started(&field).await;
    let (_, _, mut source) = field.stream(&["t"]).await;
    let mut loader = field.connector.open_loader(&field.sink_spec(), 1, 1).await.expect("loader");
    let table = target(&field, "t", false).await;
    let hops = HopList::default().with(&SystemId::from_bytes([7; 16]));
    loader.begin(&Mark { epoch: 1, seq: 1, hops }).await.expect("begin");
    let row = batch(&table, WriteOp::Upsert, &[0], &[&[INT(1)]]);
    loader.write(&[row]).await.expect("write");
    loader.commit(&Position::new("0/1"), 0).await.expect("commit");
    // The making of the loader's row, and the load.
    let (events, _) = commits(&mut source, 2).await;
    let mut tables = Vec::new();
    for event in &events {
        match event {
            LogEvent::Begin(_) => tables.clear(),
            LogEvent::Change(change) => tables.push(change.table.name.name.as_str()),
            _ => {}
        }
    }
    assert_eq!(tables, ["progress", "t", "progress"]);
    drop(open);
}

//! A state folder that cannot be used.

use std::path::{Path, PathBuf};
use std::process::Command;

use tidelock_scratch::wait_for;

use super::SOON;
use super::daemon::Daemon;

/// A small file system of its own; gone when dropped.
struct Disk(PathBuf);

impl Disk {
    /// `None` where this user may not mount one.
    fn mount(at: &Path) -> Option<Disk> {
        std::fs::create_dir(at).expect("folder");
        let done = mount(&["-t", "tmpfs", "-o", "size=4m", "tmpfs"], at);
        done.then(|| Disk(at.to_owned()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, because its daemon may still be ending; there is nothing left to do if it fails.
        let _ended = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn mount(options: &[&str], at: &Path) -> bool {
    Command::new("mount").args(options).arg(at).status().is_ok_and(|s| s.success())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_folder_on_a_full_or_read_only_disk_only_keeps_the_sources_log() {
    let (a, b) = (super::postgres().await, super::postgres().await);
    let folder = tempfile::tempdir().expect("folder");
    let Some(disk) = Disk::mount(&folder.path().join("disk")) else {
        println!("passed over: this user may not mount a file system");
        return;
    };
    let systems = [("a", a.url("db")), ("b", b.url("db"))];
    let text = super::config(&disk.0.join("state"), &systems, &[("a", "b")]);
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let mut id = 0;
    let mut arrives = async || {
        id += 1;
        a.sql("db", &format!("INSERT INTO item VALUES ({id}, 1, 'x')")).await.expect("insert");
        let count = "SELECT count(*) FROM item";
        wait_for("b", SOON, id.to_string(), async || b.one("db", count).await.expect("b"))
            .await
            .expect("b");
    };
    arrives().await;
    let filler = disk.0.join("filler");
    let confirmed = "SELECT confirmed_flush_lsn FROM pg_replication_slots";
    for (case, gone) in [("read-only", false), ("full", false), ("full", true)] {
        daemon.kill();
        if gone {
            std::fs::remove_dir_all(disk.0.join("state")).expect("remove");
        }
        if case == "full" {
            // Until there is no room any more.
            std::fs::write(&filler, vec![1; 8 << 20]).expect_err("full");
        } else {
            assert!(mount(&["-o", "remount,ro"], &disk.0));
        }
        daemon.start_again();
        arrives().await;
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        let before = a.one("db", confirmed).await.expect("slot");
        arrives().await;
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        let after = a.one("db", confirmed).await.expect("slot");
        assert_eq!(before, after, "{case}: nothing durable, nothing confirmed");
        if case == "full" {
            std::fs::remove_file(&filler).expect("room");
        } else {
            assert!(daemon.log().contains("runs without a checkpoint"), "{}", daemon.log());
            assert!(mount(&["-o", "remount,rw"], &disk.0));
        }
        daemon.streaming().await;
        arrives().await;
        let moved = format!("SELECT confirmed_flush_lsn > '{after}' FROM pg_replication_slots");
        wait_for("confirmed", SOON, "t".to_owned(), async || {
            a.one("db", &moved).await.expect("slot").replace("true", "t")
        })
        .await
        .expect("confirmed again");
    }
    daemon.stop();
}

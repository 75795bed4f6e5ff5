//! The store itself: the only file that knows sled.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use tidelock_core::{Code, Error, Position, Result};

use super::codec::{FlowRecord, Kind, LagRecord, decode, encode};

/// The local checkpoint. All calls block for a disk write at most.
pub struct Checkpoint {
    db: sled::Db,
    data_file: PathBuf,
}

fn trouble(path: &Path, words: impl std::fmt::Display) -> Error {
    Error::transient(Code::CheckpointStore, format!("checkpoint store {}: {words}", path.display()))
        .with_hint(
            "see that state_dir exists, is writable, has space, and is used by one process only",
        )
}

impl Checkpoint {
    /// Opens the store below `state_dir`, or makes it. A store that cannot be read is moved aside; the
    /// second answer then says where to.
    pub fn open(state_dir: &Path) -> Result<(Checkpoint, Option<PathBuf>)> {
        own_folder(state_dir).map_err(|e| trouble(state_dir, e))?;
        let folder = state_dir.join("checkpoint");
        match try_open(&folder) {
            Ok(store) => Ok((store, None)),
            Err(Fault::Busy) => Err(trouble(&folder, "another process has it open")),
            Err(Fault::Damaged(_)) if folder.exists() => {
                let aside = free_name(&folder);
                std::fs::rename(&folder, &aside).map_err(|e| trouble(&folder, e))?;
                match try_open(&folder) {
                    Ok(store) => Ok((store, Some(aside))),
                    Err(Fault::Busy) => Err(trouble(&folder, "another process has it open")),
                    Err(Fault::Damaged(words)) => Err(trouble(&folder, words)),
                }
            }
            Err(Fault::Damaged(words)) => Err(trouble(&folder, words)),
        }
    }

    /// The record of a flow. A damaged record is none: the target knows better anyway.
    pub fn load(&self, flow: &str) -> Result<Option<FlowRecord>> {
        self.get(Kind::Flow, flow)
    }

    /// Keeps a record, not yet durable.
    pub fn save(&self, flow: &str, record: &FlowRecord) -> Result<()> {
        self.put(Kind::Flow, flow, record)
    }

    /// Makes everything kept so far survive a power cut.
    pub fn make_durable(&self) -> Result<()> {
        self.db.flush().map_err(|e| trouble(&self.data_file, e))?;
        File::open(&self.data_file)
            .and_then(|file| file.sync_data())
            .map_err(|e| trouble(&self.data_file, e))
    }

    /// The slot that a first start was about to make when it ended.
    pub fn intent(&self, flow: &str) -> Result<Option<String>> {
        self.get(Kind::Intent, flow)
    }

    /// Notes durably that a slot is about to be made.
    pub fn put_intent(&self, flow: &str, slot: &str) -> Result<()> {
        self.put(Kind::Intent, flow, &slot.to_owned())?;
        self.make_durable()
    }

    /// Forgets the note.
    pub fn clear_intent(&self, flow: &str) -> Result<()> {
        self.remove(Kind::Intent, flow)
    }

    /// The oldest look at the source's log that was not reached when we ended.
    pub fn lag(&self, flow: &str) -> Result<Option<LagRecord>> {
        self.get(Kind::Lag, flow)
    }

    /// Keeps such a look, not yet durable.
    pub fn save_lag(&self, flow: &str, record: &LagRecord) -> Result<()> {
        self.put(Kind::Lag, flow, record)
    }

    /// The position up to which the target is known to have everything: that of the last commit, or a later
    /// one reached since without changes.
    pub fn applied(&self, flow: &str) -> Result<Option<Position>> {
        match self.get(Kind::Applied, flow)? {
            Some(position) => Ok(Some(position)),
            None => Ok(self.load(flow)?.map(|record| record.position)),
        }
    }

    /// Keeps that position, not yet durable: it is for showing lag only.
    pub fn save_applied(&self, flow: &str, position: &Position) -> Result<()> {
        self.put(Kind::Applied, flow, position)
    }

    /// Forgets a flow.
    pub fn forget(&self, flow: &str) -> Result<()> {
        self.remove(Kind::Lag, flow)?;
        self.remove(Kind::Applied, flow)?;
        self.remove(Kind::Flow, flow)?;
        self.remove(Kind::Intent, flow)
    }

    fn get<T: serde::de::DeserializeOwned>(&self, kind: Kind, flow: &str) -> Result<Option<T>> {
        let bytes = self.db.get(key(kind, flow)).map_err(|e| trouble(&self.data_file, e))?;
        match bytes.map(|bytes| decode(kind, &bytes)) {
            None => Ok(None),
            Some(Ok(record)) => Ok(Some(record)),
            Some(Err(error)) => {
                tracing::warn!(%flow, %error, "a damaged checkpoint record is left out");
                Ok(None)
            }
        }
    }

    fn put<T: serde::Serialize>(&self, kind: Kind, flow: &str, record: &T) -> Result<()> {
        self.db
            .insert(key(kind, flow), encode(kind, record)?)
            .map_err(|e| trouble(&self.data_file, e))?;
        Ok(())
    }

    fn remove(&self, kind: Kind, flow: &str) -> Result<()> {
        self.db.remove(key(kind, flow)).map_err(|e| trouble(&self.data_file, e))?;
        self.make_durable()
    }
}

/// Makes the state folder for us alone; one that others may look into is only warned about, for it may be theirs.
fn own_folder(state_dir: &Path) -> std::io::Result<()> {
    if let Some(parent) = state_dir.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(state_dir) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && state_dir.is_dir() => {}
        made => return made,
    }
    if std::fs::metadata(state_dir)?.permissions().mode() & 0o077 != 0 {
        let folder = state_dir.display();
        tracing::warn!("others can look into the state folder {folder}; chmod 700 {folder}");
    }
    Ok(())
}

fn key(kind: Kind, flow: &str) -> Vec<u8> {
    let mut key = vec![kind as u8];
    key.extend_from_slice(flow.as_bytes());
    key
}

enum Fault {
    Busy,
    Damaged(String),
}

/// sled may answer a damaged file with an error or with a panic; both mean the same here.
fn try_open(folder: &Path) -> std::result::Result<Checkpoint, Fault> {
    let opened = catch_unwind(AssertUnwindSafe(|| {
        sled::Config::new().path(folder).cache_capacity(4 << 20).flush_every_ms(None).open()
    }));
    let db = match opened {
        Ok(Ok(db)) => db,
        Ok(Err(error)) => {
            let words = error.to_string();
            return Err(if words.contains("lock") { Fault::Busy } else { Fault::Damaged(words) });
        }
        Err(_) => return Err(Fault::Damaged("its file is damaged".to_owned())),
    };
    let data_file = folder.join("db");
    if !data_file.is_file() {
        return Err(Fault::Damaged("sled's data file is not where it was expected".to_owned()));
    }
    // The folder's entries must last too.
    if let Err(error) = File::open(folder).and_then(|f| f.sync_all()) {
        return Err(Fault::Damaged(error.to_string()));
    }
    Ok(Checkpoint { db, data_file })
}

fn free_name(folder: &Path) -> PathBuf {
    (1..)
        .map(|n| folder.with_extension(format!("damaged-{n}")))
        .find(|path| !path.exists())
        .unwrap_or_else(|| folder.with_extension("damaged"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(seq: u64) -> FlowRecord {
        FlowRecord {
            position: Position::new("0/1"),
            epoch: 1,
            seq,
            source_identity: String::new(),
            target_id: String::new(),
            saved_at_ms: 0,
        }
    }

    #[test]
    fn a_checkpoint_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let (store, aside) = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(aside, None);
        store.save("a:b", &record(5)).unwrap();
        store.make_durable().unwrap();
        assert!(Checkpoint::open(dir.path()).is_err(), "two processes on one store");
        drop(store);
        let (store, _) = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(store.load("a:b").unwrap(), Some(record(5)));
        store.forget("a:b").unwrap();
        assert_eq!(store.load("a:b").unwrap(), None);
    }

    #[test]
    fn a_state_folder_made_by_us_is_ours_alone_and_one_that_is_there_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let made = dir.path().join("var/state");
        Checkpoint::open(&made).unwrap();
        assert_eq!(mode(&made), 0o700);
        let given = dir.path().join("given");
        std::fs::create_dir(&given).unwrap();
        std::fs::set_permissions(&given, PermissionsExt::from_mode(0o750)).unwrap();
        Checkpoint::open(&given).unwrap();
        assert_eq!(mode(&given), 0o750);
    }

    #[test]
    fn a_damaged_store_is_moved_aside_or_read_right() {
        for (seed, cut) in [(3usize, false), (40, false), (517, false), (0, true)] {
            let dir = tempfile::tempdir().unwrap();
            let (store, _) = Checkpoint::open(dir.path()).unwrap();
            for seq in 0..50 {
                store.save("a:b", &record(seq)).unwrap();
                store.make_durable().unwrap();
            }
            drop(store);
            let file = dir.path().join("checkpoint/db");
            let mut bytes = std::fs::read(&file).unwrap();
            if cut {
                bytes.truncate(bytes.len() / 3);
            } else {
                for at in (seed..bytes.len()).step_by(97) {
                    bytes[at] ^= 0x55;
                }
            }
            std::fs::write(&file, bytes).unwrap();
            let (store, _) = Checkpoint::open(dir.path()).unwrap();
            let loaded = store.load("a:b").unwrap();
            assert!(loaded.is_none_or(|r| r.seq < 50), "a record that was never written");
            store.save("a:b", &record(77)).unwrap();
            store.make_durable().unwrap();
            assert_eq!(store.load("a:b").unwrap(), Some(record(77)));
        }
    }
}

//! The store itself: the only file that knows sled.
//!
//! A folder on a full or read-only disk is no reason not to run: the targets know every position. Records are then
//! kept in memory, nothing is durable, so nothing is confirmed to a source, and each attempt to make it so looks
//! for the folder again.

use std::collections::HashMap;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidelock_core::{Code, Error, Position, Result};

use super::codec::{FlowRecord, Kind, LagRecord, decode, encode};

/// Between two looks at a store that another process has.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The local checkpoint. All calls block for a disk write at most.
pub struct Checkpoint {
    folder: PathBuf,
    place: Mutex<Place>,
}

/// Where records are kept.
enum Place {
    Disk(Disk),
    /// Here, until the disk can be used.
    Memory(HashMap<Vec<u8>, Vec<u8>>),
}

#[derive(Clone)]
struct Disk {
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
        Checkpoint::open_within(state_dir, Duration::ZERO)
    }

    /// The same, and if another process has it, waits so long for that to end.
    pub fn open_within(
        state_dir: &Path,
        patience: Duration,
    ) -> Result<(Checkpoint, Option<PathBuf>)> {
        let folder = state_dir.join("checkpoint");
        let began = Instant::now();
        let opened = match own_folder(state_dir) {
            Ok(()) => loop {
                match try_open(&folder) {
                    Err(Fault::Busy) if began.elapsed() < patience => {
                        std::thread::sleep(LOOK_AGAIN)
                    }
                    opened => break opened,
                }
            },
            Err(error) if is_away(&error) => Err(Fault::Away(error.to_string())),
            Err(error) => return Err(trouble(state_dir, error)),
        };
        let (place, aside) = match opened {
            Ok(disk) => (Place::Disk(disk), None),
            Err(Fault::Damaged(_)) if folder.exists() => {
                let aside = free_name(&folder);
                std::fs::rename(&folder, &aside).map_err(|e| trouble(&folder, e))?;
                let disk = try_open(&folder).map_err(|fault| trouble(&folder, fault))?;
                (Place::Disk(disk), Some(aside))
            }
            Err(fault @ Fault::Away(_)) => {
                let error = trouble(&folder, fault);
                tracing::error!(%error, "runs without a checkpoint, and the sources keep their logs until there is one");
                (Place::Memory(HashMap::new()), None)
            }
            Err(fault) => return Err(trouble(&folder, fault)),
        };
        Ok((Checkpoint { folder, place: Mutex::new(place) }, aside))
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self, words: impl std::fmt::Display) -> Error {
        trouble(&self.folder, words)
    }

    /// The store on disk; what was kept in memory meanwhile is moved there first.
    fn disk(&self) -> Result<Disk> {
        let mut place = self.place();
        let kept = match &*place {
            Place::Disk(disk) => return Ok(disk.clone()),
            Place::Memory(kept) => kept,
        };
        if let Some(state_dir) = self.folder.parent() {
            own_folder(state_dir).map_err(|e| self.trouble(e))?;
        }
        let opened = match try_open(&self.folder) {
            // So sled leaves its files where the disk was full. One of them is enough to look at.
            Err(Fault::Damaged(words)) if self.folder.exists() => {
                let aside = self.folder.with_extension("damaged");
                tracing::debug!(moved_to = %aside.display(), %words, "the checkpoint store is begun anew");
                let _older = std::fs::remove_dir_all(&aside);
                std::fs::rename(&self.folder, &aside).map_err(|e| self.trouble(e))?;
                try_open(&self.folder)
            }
            opened => opened,
        };
        let disk = opened.map_err(|fault| self.trouble(fault))?;
        for (key, value) in kept {
            disk.db.insert(key, value.as_slice()).map_err(|e| self.trouble(e))?;
        }
        *place = Place::Disk(disk.clone());
        Ok(disk)
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
        let disk = self.disk()?;
        let flushed = disk.db.flush().map(drop).map_err(|e| self.trouble(e));
        let durable = flushed.and_then(|()| {
            let synced = File::open(&disk.data_file).and_then(|file| file.sync_data());
            synced.map_err(|e| self.trouble(e))
        });
        if durable.is_err() {
            give_up(&mut self.place());
        }
        durable
    }

    /// The slot that a first start was about to make when it ended.
    pub fn intent(&self, flow: &str) -> Result<Option<String>> {
        self.get(Kind::Intent, flow)
    }

    /// Notes durably that a slot is about to be made.
    pub fn put_intent(&self, flow: &str, slot: &str) -> Result<()> {
        // Whoever makes a slot has looked for the flow's record before: in the store, or for want of it in vain.
        let away = matches!(&*self.place(), Place::Memory(_));
        self.put(Kind::Intent, flow, &slot.to_owned())?;
        self.make_durable()?;
        if away { Err(self.trouble("it is there again and is read anew")) } else { Ok(()) }
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
        let bytes = match &*self.place() {
            Place::Disk(disk) => {
                let found = disk.db.get(key(kind, flow)).map_err(|e| self.trouble(e))?;
                found.map(|bytes| bytes.to_vec())
            }
            Place::Memory(kept) => kept.get(&key(kind, flow)).cloned(),
        };
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
        let (key, bytes) = (key(kind, flow), encode(kind, record)?);
        let mut place = self.place();
        if let Place::Disk(disk) = &*place {
            match disk.db.insert(&key, bytes.as_slice()) {
                Ok(_) => return Ok(()),
                Err(error) => tracing::debug!(%error, "the checkpoint is kept in memory"),
            }
        }
        give_up(&mut place);
        if let Place::Memory(kept) = &mut *place {
            kept.insert(key, bytes);
        }
        Ok(())
    }

    fn remove(&self, kind: Kind, flow: &str) -> Result<()> {
        let disk = self.disk()?;
        disk.db.remove(key(kind, flow)).map_err(|e| self.trouble(e))?;
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

/// Keeps the records in memory from now on: sled answers every call after a failed write with that failure, until
/// it is opened anew.
fn give_up(place: &mut Place) {
    if let Place::Disk(disk) = place {
        let kept = disk.db.iter().flatten().map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
        *place = Place::Memory(kept);
    }
}

fn key(kind: Kind, flow: &str) -> Vec<u8> {
    let mut key = vec![kind as u8];
    key.extend_from_slice(flow.as_bytes());
    key
}

enum Fault {
    Busy,
    /// The disk is full or read-only.
    Away(String),
    Damaged(String),
}

impl Fault {
    fn of(error: std::io::Error) -> Fault {
        if is_away(&error) {
            Fault::Away(error.to_string())
        } else {
            Fault::Damaged(error.to_string())
        }
    }
}

/// Whether a disk is full or read-only, which passes without anybody touching the folder.
pub(crate) fn is_away(error: &std::io::Error) -> bool {
    use ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | ReadOnlyFilesystem | QuotaExceeded)
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Fault::Busy => "another process has it open",
            Fault::Away(words) | Fault::Damaged(words) => words,
        })
    }
}

/// sled may answer a damaged file with an error or with a panic; both mean the same here.
fn try_open(folder: &Path) -> std::result::Result<Disk, Fault> {
    let opened = catch_unwind(AssertUnwindSafe(|| {
        sled::Config::new().path(folder).cache_capacity(4 << 20).flush_every_ms(None).open()
    }));
    let db = match opened {
        Ok(Ok(db)) => db,
        Ok(Err(error)) if error.to_string().contains("lock") => return Err(Fault::Busy),
        Ok(Err(sled::Error::Io(error))) => return Err(Fault::of(error)),
        Ok(Err(error)) => return Err(Fault::Damaged(error.to_string())),
        Err(_) => return Err(Fault::Damaged("its file is damaged".to_owned())),
    };
    let data_file = folder.join("db");
    if !data_file.is_file() {
        return Err(Fault::Damaged("sled's data file is not where it was expected".to_owned()));
    }
    // The folder's entries must last too.
    File::open(folder).and_then(|f| f.sync_all()).map_err(Fault::of)?;
    Ok(Disk { db, data_file })
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
        let state_dir = dir.path().to_owned();
        let waits = std::thread::spawn(move || {
            Checkpoint::open_within(&state_dir, Duration::from_secs(60)).map(drop)
        });
        std::thread::sleep(Duration::from_millis(200));
        assert!(!waits.is_finished());
        drop(store);
        waits.join().unwrap().unwrap();
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
    fn without_a_folder_records_are_kept_in_memory_and_nothing_is_durable_until_there_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let (store, _) = Checkpoint::open(&state).unwrap();
        store.save("c:d", &record(3)).unwrap();
        store.make_durable().unwrap();
        drop(store);
        let hidden = dir.path().join("hidden");
        std::fs::rename(&state, &hidden).unwrap();
        std::fs::write(&state, "no folder").unwrap();
        let (folder, place) = (state.join("checkpoint"), Mutex::new(Place::Memory(HashMap::new())));
        let store = Checkpoint { folder, place };
        store.save("a:b", &record(5)).unwrap();
        assert_eq!(store.load("a:b").unwrap(), Some(record(5)));
        assert!(store.make_durable().is_err() && store.put_intent("c:d", "slot").is_err());
        std::fs::remove_file(&state).unwrap();
        std::fs::rename(&hidden, &state).unwrap();
        // The record of c:d could not be seen when its slot was about to be made.
        assert!(store.put_intent("c:d", "slot").is_err());
        store.put_intent("c:d", "slot").unwrap();
        drop(store);
        let (store, aside) = Checkpoint::open(&state).unwrap();
        assert_eq!((aside, store.load("c:d").unwrap()), (None, Some(record(3))));
        assert_eq!(store.load("a:b").unwrap(), Some(record(5)));
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

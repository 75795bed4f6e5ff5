//! The law of copies, in a world of whole numbers: at every commit the target holds the source's rows at the flow's
//! position as far as its parts are copied, and nothing beyond.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidelock_core::{
    Change, DataType, Delete, Insert, KeyRange, OldRow, Op, Row, Secret, StreamColumn,
    SystemConfig, TableName, TableSchema, Tls, TlsMode, Update, Value,
};

use super::*;

/// Keys that there may be.
const KEYS: i64 = 60;
const MAPPING: &str = "t";

type Rows = BTreeMap<i64, i64>;

fn connector() -> Arc<dyn Connector> {
    let config = SystemConfig {
        name: "a".to_owned(),
        url: Secret::new("postgres://nobody@127.0.0.1:1/none"),
        password: None,
        tls: Tls { mode: TlsMode::Disable, ca_file: None, cert_file: None, key_file: None },
        meta_schema: "tidelock".to_owned(),
        user: String::new(),
    };
    // Only asked how positions lie to each other.
    crate::registry::connector(&config).expect("connector")
}

fn schema() -> Arc<TableSchema> {
    let column = |name: &str| StreamColumn {
        name: name.to_owned(),
        data_type: DataType::Int { bits: 64, unsigned: false },
        identity: name == "id",
    };
    let columns = vec![column("id"), column("v")];
    Arc::new(TableSchema { name: TableName::new("s", "t"), version: 1, columns })
}

fn table() -> CopyTable {
    CopyTable {
        name: TableName::new("s", "t"),
        columns: vec!["id".to_owned(), "v".to_owned()],
        key: vec!["id".to_owned()],
        filter: None,
    }
}

fn row(id: i64, v: i64) -> Row {
    Row([Value::Int(id), Value::Int(v)].into())
}

fn key(id: i64) -> Key {
    [Value::Int(id)].into()
}

fn int(value: Option<&Value>) -> i64 {
    match value {
        Some(Value::Int(i)) => *i,
        other => panic!("{other:?}"),
    }
}

fn at(place: usize) -> Position {
    Position::new(format!("0/{:X}", 16 + place))
}

/// One worker of the world, at one part.
struct Reader {
    part: usize,
    done: Option<i64>,
    end: Option<i64>,
    /// A piece whose outcome is awaited, with its last key and whether the part ends with it.
    sent: Option<(oneshot::Receiver<Outcome>, Option<i64>, bool)>,
    /// The piece behind it, which is read already.
    ahead: Option<Ahead>,
}

struct Ahead {
    piece: Piece,
    seen: usize,
    upto: Option<i64>,
    last: bool,
}

struct World {
    random: StdRng,
    connector: Arc<dyn Connector>,
    schema: Arc<TableSchema>,
    /// The source's rows before each change, and after the last.
    history: Vec<Rows>,
    log: Vec<Change>,
    /// Changes followed.
    followed: usize,
    target: Rows,
    stored: CopyRow,
    regions: Regions,
    readers: Vec<Reader>,
    backfill: bool,
}

impl World {
    fn new(seed: u64, backfill: bool) -> World {
        let mut random = StdRng::seed_from_u64(seed);
        let first: Rows =
            (0..KEYS).filter(|_| random.random_bool(0.5)).map(|id| (id, id * 100)).collect();
        let target = match backfill {
            true => {
                first.iter().filter(|_| random.random_bool(0.7)).map(|(k, v)| (*k, *v)).collect()
            }
            false => Rows::new(),
        };
        let stored = CopyRow {
            pipeline: "p".to_owned(),
            flow: "a:b".to_owned(),
            mapping: MAPPING.to_owned(),
            reason: if backfill { CopyReason::Backfill } else { CopyReason::Initial },
            phase: CopyPhase::Rows,
            sweep: false,
            cursor: String::new(),
            filter: String::new(),
            columns: String::new(),
            rows_done: 0,
            rows_total: 0,
            started_micros: 1,
            finished_micros: 0,
        };
        let connector = connector();
        let regions = regions(&connector, &stored);
        let mut world = World {
            random,
            connector,
            schema: schema(),
            history: vec![first],
            log: Vec::new(),
            followed: 0,
            target,
            stored,
            regions,
            readers: Vec::new(),
            backfill,
        };
        world.begin();
        world
    }

    /// Finds the parts, as a worker does, and cuts some more.
    fn begin(&mut self) {
        let mut parts = parts_of(&self.stored, &table());
        let last = parts.pop().expect("a part");
        let mut after = None;
        let of = |key: &Key| int(key.first());
        for (part, found) in parts.iter().enumerate() {
            let end = found.upto.as_ref().map(of);
            let done = match &found.reach {
                Reach::All => None,
                Reach::Nothing => Some(after),
                Reach::UpTo(key) => Some(Some(of(key))),
            };
            if let Some(done) = done {
                self.readers.push(Reader { part, done, end, sent: None, ahead: None });
            }
            after = end;
        }
        let mut done = match &last.reach {
            Reach::UpTo(key) => Some(of(key)),
            Reach::Nothing => after,
            Reach::All => return,
        };
        let mut part = parts.len();
        for _ in 0..self.random.random_range(0..4) {
            let end = done.unwrap_or(-1) + self.random.random_range(1..KEYS / 2);
            let (reply, _answer) = oneshot::channel();
            self.ask(Request::Split { mapping: MAPPING.into(), at: key(end), reply });
            self.readers.push(Reader { part, done, end: Some(end), sent: None, ahead: None });
            (done, part) = (Some(end), part + 1);
        }
        self.readers.push(Reader { part, done, end: None, sent: None, ahead: None });
    }

    fn ask(&mut self, request: Request) {
        self.regions.take(request, &at(self.followed));
    }

    fn now(&self) -> &Rows {
        self.history.last().expect("rows")
    }

    /// The source goes on by one change.
    fn change(&mut self) {
        let id = self.random.random_range(0..KEYS);
        let to = self.random.random_range(0..KEYS);
        let v = self.random.random_range(0..1_000_000);
        let mut rows = self.now().clone();
        let op = match (rows.get(&id).copied(), rows.contains_key(&to)) {
            (None, _) => {
                rows.insert(id, v);
                Op::Insert(Insert { new: row(id, v) })
            }
            (Some(old), _) if self.random.random_bool(0.25) => {
                rows.remove(&id);
                Op::Delete(Delete { old: OldRow::Full(row(id, old)) })
            }
            (Some(old), false) if self.random.random_bool(0.7) => {
                rows.remove(&id);
                rows.insert(to, v);
                Op::Update(Update { old: OldRow::Key(row(id, old)), new: row(to, v) })
            }
            (Some(_), _) => {
                rows.insert(id, v);
                Op::Update(Update { old: OldRow::Absent, new: row(id, v) })
            }
        };
        self.log.push(Change { table: self.schema.clone(), op });
        self.history.push(rows);
    }

    /// The flow follows the log by one change, and commits.
    async fn follow(&mut self) {
        let Some(change) = self.log.get(self.followed).cloned() else { return };
        let met = self.regions.meet(MAPPING, &change, false).await.expect("meet");
        let put = |target: &mut Rows, new: &Row| {
            target.insert(int(new.0.first()), int(new.0.get(1)));
        };
        let take = |target: &mut Rows, old: &OldRow| {
            if let Some(old) = old.row() {
                target.remove(&int(old.0.first()));
            }
        };
        match (met, &change.op) {
            (Meeting::Later, _) => {}
            (Meeting::Insert(insert), _) => put(&mut self.target, &insert.new),
            (Meeting::Erase, Op::Update(update)) => take(&mut self.target, &update.old),
            (Meeting::Apply, Op::Insert(insert)) => put(&mut self.target, &insert.new),
            (Meeting::Apply, Op::Delete(delete)) => take(&mut self.target, &delete.old),
            (Meeting::Apply, Op::Update(update)) => {
                take(&mut self.target, &update.old);
                put(&mut self.target, &update.new);
            }
            (Meeting::Erase | Meeting::Again, op) => panic!("{op:?}"),
        }
        self.followed += 1;
        self.holds();
    }

    /// Some worker goes on: reads a piece and sends it, while the one before may still be in hand.
    fn read(&mut self) {
        if self.readers.is_empty() {
            return;
        }
        let i = self.random.random_range(0..self.readers.len());
        let mut reader = self.readers.swap_remove(i);
        let (part, mapping) = (reader.part, Arc::from(MAPPING));
        let before = reader.sent.take();
        let after = before.as_ref().map_or(reader.done, |(_, upto, _)| *upto);
        let ended = before.as_ref().is_some_and(|(_, _, last)| *last);
        let mut read = reader.ahead.take();
        if !ended && read.is_none() {
            let upto = after.unwrap_or(-1) + self.random.random_range(1..12);
            let upto = match reader.end {
                Some(end) => Some(upto.min(end)),
                None => (upto < KEYS).then_some(upto),
            };
            let last = upto == reader.end;
            let (reply, mut answer) = oneshot::channel();
            let watch =
                Request::Watch { mapping, part, upto: upto.map(key), last, shown: 0, reply };
            self.ask(watch);
            let watching = answer.try_recv().expect("answered");
            assert_eq!(watching.reached, at(self.followed));
            // The source goes on before the snapshot, and after it.
            for _ in 0..self.random.random_range(0..3) {
                self.change();
            }
            let seen = self.random.random_range(self.followed..self.history.len());
            let range = KeyRange { after: after.map(key), upto: upto.map(key) };
            if self.random.random_bool(0.1) {
                // It was too much: cut anew.
                let (reply, _answer) = oneshot::channel();
                let mapping = MAPPING.into();
                self.ask(Request::Unwatch { mapping, part, all: false, reply });
            } else {
                let piece = self.piece(&range, seen);
                read = Some(Ahead { piece, seen, upto, last });
            }
        }
        if let Some((mut outcome, upto, last)) = before {
            match outcome.try_recv() {
                Ok(Outcome::Written) if last => return,
                Ok(Outcome::Written) => reader.done = upto,
                Ok(Outcome::Spoiled) => panic!("nothing was too much"),
                Err(oneshot::error::TryRecvError::Empty) => {
                    reader.ahead = read;
                    reader.sent = Some((outcome, upto, last));
                    self.readers.push(reader);
                    return;
                }
                Err(closed) => panic!("{closed}"),
            }
        }
        if let Some(Ahead { piece, seen, upto, last }) = read {
            let (reply, outcome) = oneshot::channel();
            let rows = Request::Rows {
                mapping: MAPPING.into(),
                part,
                piece,
                upto: at(seen),
                total: 0,
                reply,
            };
            self.ask(rows);
            reader.sent = Some((outcome, upto, last));
        }
        self.readers.push(reader);
    }

    fn piece(&self, range: &KeyRange, seen: usize) -> Piece {
        let of = |key: &Option<Key>| key.as_ref().map(|key| int(key.first()));
        let (after, upto) = (of(&range.after), of(&range.upto));
        let rows = self.history[seen]
            .iter()
            .filter(|(id, _)| after.is_none_or(|a| **id > a) && upto.is_none_or(|u| **id <= u))
            .map(|(id, v)| row(*id, *v))
            .collect();
        Piece { table: self.schema.clone(), rows, lines: None, bytes: 0, cut: false }
    }

    /// A volley: what is ready is committed one by one in any order; the world may end in between.
    fn volley(&mut self, crash: bool) {
        let mut ready = Vec::new();
        while let Some(rows) = self.regions.rows_ready(&at(self.followed)).expect("ready") {
            ready.push(rows);
        }
        while !ready.is_empty() {
            let i = self.random.random_range(0..ready.len());
            let RowsReady { mapping, piece, step, reply } = ready.swap_remove(i);
            let row = self.regions.after(&mapping, &step).expect("row");
            for row in &piece.rows {
                self.target.insert(int(row.0.first()), int(row.0.get(1)));
            }
            self.stored = row.clone();
            self.regions.stepped(&mapping, &step, row);
            // The reader may have gone.
            let _gone = reply.send(Outcome::Written);
            self.holds();
            if crash && self.random.random_bool(0.5) {
                break;
            }
        }
        if crash {
            self.regions = regions(&self.connector, &self.stored);
            self.readers.clear();
            if self.stored.phase == CopyPhase::Rows {
                self.begin();
            }
        }
    }

    fn holds(&self) {
        let source = &self.history[self.followed];
        let parts = match self.stored.phase {
            CopyPhase::Done => vec![Part { upto: None, reach: Reach::All }],
            _ => parts_of(&self.stored, &table()),
        };
        let mut after = -1;
        for part in &parts {
            let end = part.upto.as_ref().map_or(KEYS, |key| int(key.first()).min(KEYS));
            let reached = match &part.reach {
                Reach::Nothing => after,
                Reach::UpTo(key) => int(key.first()),
                Reach::All => end,
            };
            for id in after + 1..=end {
                let ours = self.target.get(&id);
                if id <= reached {
                    assert_eq!(ours, source.get(&id), "key {id} is copied");
                } else if !self.backfill {
                    assert_eq!(ours, None, "key {id} is not copied yet");
                }
            }
            after = after.max(end);
        }
    }
}

fn regions(connector: &Arc<dyn Connector>, stored: &CopyRow) -> Regions {
    let job = Job {
        mapping: MAPPING.into(),
        table: table(),
        alike: true,
        as_lines: false,
        splits: true,
        by_key: false,
        row: stored.clone(),
    };
    let jobs = (stored.phase == CopyPhase::Rows).then_some(job);
    Regions::new(connector.clone(), connector.clone(), jobs, 4)
}

#[tokio::test]
async fn every_commit_of_any_part_leaves_the_sources_rows_at_the_flows_position() {
    let mut in_parts = 0;
    for seed in 0..600 {
        let mut world = World::new(seed, seed % 3 == 0);
        let mut steps = 0;
        while world.stored.phase != CopyPhase::Done {
            match world.random.random_range(0..100) {
                0..10 => world.change(),
                10..60 => world.follow().await,
                60..90 => world.read(),
                90..99 => world.volley(false),
                _ => world.volley(true),
            }
            in_parts += usize::from(world.stored.cursor.contains("parts"));
            steps += 1;
            assert!(steps < 100_000, "seed {seed} does not end");
        }
        for _ in 0..5 {
            world.change();
        }
        while world.followed < world.log.len() {
            world.follow().await;
        }
        assert_eq!(world.target, *world.now(), "seed {seed}");
        assert!(world.regions.is_empty());
    }
    assert!(in_parts > 1_000, "{in_parts}");
}

#[test]
fn a_snapshot_is_asked_about_all_that_no_other_has_shown() {
    let connector = connector();
    let world = World::new(1, false);
    let mut regions = regions(&connector, &world.stored);
    let watch = |regions: &mut Regions, shown: u64| {
        let (reply, mut answer) = oneshot::channel();
        let (mapping, upto) = (MAPPING.into(), None);
        let watch = Request::Watch { mapping, part: 0, upto, last: true, shown, reply };
        regions.take(watch, &at(0));
        let Watching { delivered, last, .. } = answer.try_recv().expect("answered");
        (delivered.into_iter().map(|id| id.0).collect::<Vec<_>>(), last)
    };
    for id in [5, 5, 6, 7] {
        regions.note(TransactionId(id));
    }
    // Two workers ask; neither has shown anything yet.
    assert_eq!(watch(&mut regions, 0), (vec![5, 6, 7], 3));
    regions.note(TransactionId(8));
    assert_eq!(watch(&mut regions, 0), (vec![5, 6, 7, 8], 4));
    // The first has shown three of them, so all later ones show them; the second is slower and says less.
    assert_eq!(watch(&mut regions, 3), (vec![8], 4));
    assert_eq!(watch(&mut regions, 0), (vec![8], 4));
    regions.note(TransactionId(9));
    assert_eq!(watch(&mut regions, 4), (vec![9], 5));
    assert_eq!(watch(&mut regions, 5), (vec![], 5));
}

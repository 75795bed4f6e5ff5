//! The decoder's laws.

use bytes::{BufMut, BytesMut};
use proptest::prelude::*;

use super::*;

fn put_tuple(out: &mut BytesMut, tuple: &Tuple) {
    out.put_u16(tuple.len() as u16);
    out.put_slice(tuple.bytes());
}

fn put_old(out: &mut BytesMut, old: &Old) {
    match old {
        Old::Key(tuple) => {
            out.put_u8(b'K');
            put_tuple(out, tuple);
        }
        Old::Full(tuple) => {
            out.put_u8(b'O');
            put_tuple(out, tuple);
        }
    }
}

/// The bytes the server sends for a message.
fn encode(message: &Message) -> Bytes {
    let mut out = BytesMut::new();
    match message {
        Message::Begin { commit_micros, xid } => {
            out.put_u8(b'B');
            out.put_u64(77);
            out.put_i64(commit_micros - EPOCH_2000_MICROS);
            out.put_u32(*xid);
        }
        Message::Commit { end, commit_micros } => {
            out.put_u8(b'C');
            out.put_u8(0);
            out.put_u64(77);
            out.put_u64(end.0);
            out.put_i64(commit_micros - EPOCH_2000_MICROS);
        }
        Message::Relation(relation) => {
            out.put_u8(b'R');
            out.put_u32(relation.id);
            for text in [&relation.schema, &relation.name] {
                out.put_slice(text.as_bytes());
                out.put_u8(0);
            }
            out.put_u8(relation.identity);
            out.put_u16(relation.columns.len() as u16);
            for column in &relation.columns {
                out.put_u8(u8::from(column.key));
                out.put_slice(column.name.as_bytes());
                out.put_u8(0);
                out.put_u32(column.type_oid);
                out.put_i32(column.type_modifier);
            }
        }
        Message::Insert { relation, new } => {
            out.put_u8(b'I');
            out.put_u32(*relation);
            out.put_u8(b'N');
            put_tuple(&mut out, new);
        }
        Message::Update { relation, old, new } => {
            out.put_u8(b'U');
            out.put_u32(*relation);
            if let Some(old) = old {
                put_old(&mut out, old);
            }
            out.put_u8(b'N');
            put_tuple(&mut out, new);
        }
        Message::Delete { relation, old } => {
            out.put_u8(b'D');
            out.put_u32(*relation);
            put_old(&mut out, old);
        }
        Message::Truncate { relations } => {
            out.put_u8(b'T');
            out.put_u32(relations.len() as u32);
            out.put_u8(3);
            for id in relations {
                out.put_u32(*id);
            }
        }
        Message::Irrelevant => out.put_u8(b'O'),
    }
    out.freeze()
}

/// NULL, unchanged, or a text.
type Told = Result<Vec<u8>, bool>;

fn told() -> impl Strategy<Value = Vec<Told>> {
    let cell = prop_oneof![
        any::<bool>().prop_map(Err),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(Ok),
    ];
    prop::collection::vec(cell, 0..8)
}

fn tuple(told: &[Told]) -> Tuple {
    let mut out = BytesMut::new();
    for cell in told {
        match cell {
            Err(false) => out.put_u8(b'n'),
            Err(true) => out.put_u8(b'u'),
            Ok(text) => {
                out.put_u8(b't');
                out.put_u32(text.len() as u32);
                out.put_slice(text);
            }
        }
    }
    Tuple { count: told.len(), bytes: out.freeze() }
}

fn tuples() -> impl Strategy<Value = Tuple> {
    told().prop_map(|told| tuple(&told))
}

fn olds() -> impl Strategy<Value = Old> {
    prop_oneof![tuples().prop_map(Old::Key), tuples().prop_map(Old::Full)]
}

fn messages() -> impl Strategy<Value = Message> {
    let column = (any::<bool>(), "[a-zü ]{0,9}", any::<u32>(), any::<i32>()).prop_map(
        |(key, name, type_oid, type_modifier)| RelationColumn {
            key,
            name,
            type_oid,
            type_modifier,
        },
    );
    let micros = -1_000_000_000_000i64..4_000_000_000_000_000;
    prop_oneof![
        (micros.clone(), any::<u32>())
            .prop_map(|(commit_micros, xid)| Message::Begin { commit_micros, xid }),
        (any::<u64>(), micros)
            .prop_map(|(end, commit_micros)| Message::Commit { end: Lsn(end), commit_micros }),
        (any::<u32>(), "[a-z]{1,9}", "[a-zA-Z \"]{1,9}", prop::collection::vec(column, 0..6))
            .prop_map(|(id, schema, name, columns)| Message::Relation(Relation {
                id,
                schema,
                name,
                identity: b'd',
                columns
            })),
        (any::<u32>(), tuples()).prop_map(|(relation, new)| Message::Insert { relation, new }),
        (any::<u32>(), prop::option::of(olds()), tuples())
            .prop_map(|(relation, old, new)| Message::Update { relation, old, new }),
        (any::<u32>(), olds()).prop_map(|(relation, old)| Message::Delete { relation, old }),
        prop::collection::vec(any::<u32>(), 0..5)
            .prop_map(|relations| Message::Truncate { relations }),
    ]
}

proptest! {
    #[test]
    fn the_cells_of_a_row_are_those_that_were_told(told in told()) {
        let tuple = tuple(&told);
        let cells: Vec<Told> = tuple
            .cells()
            .map(|cell| match cell {
                Cell::Null => Err(false),
                Cell::Unchanged => Err(true),
                Cell::Text(text) => Ok(text.to_vec()),
            })
            .collect();
        prop_assert_eq!(cells, told);
    }

    #[test]
    fn what_was_encoded_is_decoded(message in messages()) {
        prop_assert_eq!(decode(encode(&message)), Ok(message));
    }

    #[test]
    fn a_message_cut_short_is_damaged(message in messages(), cut in any::<prop::sample::Index>()) {
        let bytes = encode(&message);
        let cut = cut.index(bytes.len());
        prop_assert_eq!(decode(bytes.slice(..cut)), Err(Fault::Damaged));
    }

    #[test]
    fn any_bytes_give_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(bytes.into());
    }

    #[test]
    fn any_bytes_behind_a_known_tag_give_an_answer(
        tag in prop::sample::select(b"BCRIUDTOYMA".to_vec()),
        mut bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        bytes.insert(0, tag);
        let _ = decode(bytes.into());
    }
}

#[test]
fn an_unknown_kind_is_named() {
    assert_eq!(decode(Bytes::from_static(b"z123")), Err(Fault::Unknown(b'z')));
}

/// What a real server said (`tests/server/record.rs`).
fn recorded() -> Vec<Vec<u8>> {
    include_str!("recorded.hex")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let digit = |b: &u8| char::from(*b).to_digit(16).expect("hex") as u8;
            line.as_bytes().chunks(2).map(|pair| digit(&pair[0]) << 4 | digit(&pair[1])).collect()
        })
        .collect()
}

#[test]
fn every_recorded_message_is_read() {
    let mut kinds: Vec<u8> = Vec::new();
    let (mut olds, mut unchanged) = ((false, false), false);
    for bytes in recorded() {
        kinds.push(bytes[0]);
        match decode(bytes.into()).expect("a real message") {
            Message::Update { old, new, .. } => {
                olds.0 |= matches!(old, Some(Old::Key(_)));
                olds.1 |= matches!(old, Some(Old::Full(_)));
                unchanged |= new.cells().any(|cell| cell == Cell::Unchanged);
            }
            Message::Begin { .. }
            | Message::Commit { .. }
            | Message::Relation(_)
            | Message::Insert { .. }
            | Message::Delete { .. }
            | Message::Truncate { .. }
            | Message::Irrelevant => {}
        }
    }
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds, b"BCDIMORTUY");
    assert!(olds.0 && olds.1 && unchanged);
}

#[test]
fn fuzz_damaged_messages_give_an_answer() {
    let bytes_max = |length: usize| 128 * length as u64 + 4096;
    tidelock_fuzz::fuzz("pgoutput", &recorded(), bytes_max, |bytes| {
        if let Ok(message) = decode(Bytes::copy_from_slice(bytes)) {
            assert_eq!(decode(encode(&message)), Ok(message));
        }
    });
}

//! The rows of a piece with what changed while they were read laid over them. Pure.

use std::collections::{BTreeMap, HashSet};

use tidelock_core::{CopyTable, Cursor, Error, Key, Piece, Result, Row, Value};

/// A change of a range that is being read.
#[derive(Debug)]
pub(super) struct Kept {
    /// The key that the row had, and whether that is of the range.
    pub(super) old: Option<(String, bool)>,
    /// The key that it has, whether that is of the range, and the row.
    pub(super) new: Option<(String, bool, Row)>,
    /// Every row went away before.
    pub(super) clear: bool,
}

/// A piece with the changes laid over it; `None` if they do not fit together, which a new reading
/// mends. Only the rows that a change is about are taken out and read; lines stay lines else.
pub(super) fn merged(
    mut piece: Piece,
    kept: Vec<Kept>,
    table: &CopyTable,
) -> Result<Option<Piece>> {
    if kept.is_empty() {
        return Ok(Some(piece));
    }
    let mut changed = take_out(&mut piece, &kept, table)?;
    for change in kept {
        if change.clear {
            piece.rows.clear();
            piece.lines = None;
            changed.clear();
            continue;
        }
        let before = match &change.old {
            Some((text, true)) => changed.remove(text),
            Some((_, false)) | None => None,
        };
        let Some((text, true, new)) = change.new else { continue };
        let base = before.or_else(|| changed.get(&text).cloned());
        changed.insert(text, overlaid(base, new));
    }
    if table.filter.is_some() {
        // A row that the condition leaves out is in the range all the same, and is followed as it is.
        changed.retain(|_, row| row.is_full());
    }
    if !changed.values().all(Row::is_full) {
        return Ok(None);
    }
    piece.rows.extend(changed.into_values());
    Ok(Some(piece))
}

/// Takes the rows out of a piece that changes name by their keys.
fn take_out(piece: &mut Piece, kept: &[Kept], table: &CopyTable) -> Result<BTreeMap<String, Row>> {
    let named = |change: &'_ Kept| {
        let old = change.old.as_ref().filter(|old| old.1).map(|old| old.0.clone());
        let new = change.new.as_ref().filter(|new| new.1).map(|new| new.0.clone());
        old.into_iter().chain(new)
    };
    let named: HashSet<String> = kept.iter().flat_map(named).collect();
    let text = |key: &[Value]| {
        let cursor = Cursor::new(&table.key, key).map(|cursor| cursor.encode());
        cursor.ok_or_else(|| Error::bug("a key to copy by holds NULL"))
    };
    let places: Vec<usize> =
        table.key.iter().filter_map(|name| table.columns.iter().position(|c| c == name)).collect();
    let mut taken = BTreeMap::new();
    let rows = std::mem::take(&mut piece.rows);
    piece.rows.reserve(rows.len());
    for row in rows {
        let key: Key = places.iter().filter_map(|&at| row.0.get(at).cloned()).collect();
        let text = text(&key)?;
        if named.contains(&text) {
            taken.insert(text, row);
        } else {
            piece.rows.push(row);
        }
    }
    if let Some(lines) = &mut piece.lines {
        let before = std::mem::take(&mut lines.text);
        for chunk in before {
            // What stays between two rows that are taken out is one slice.
            let mut start = 0;
            let mut at = 0;
            for line in chunk.split_inclusive(|byte| *byte == b'\n') {
                let line = chunk.slice_ref(line);
                let text = text(&lines.reader.key(&line)?)?;
                let end = at + line.len();
                if named.contains(&text) {
                    taken.insert(text, lines.reader.row(&line)?);
                    lines.count -= 1;
                    lines.text.push(chunk.slice(start..at));
                    start = end;
                }
                at = end;
            }
            lines.text.push(chunk.slice(start..));
        }
        lines.text.retain(|chunk| !chunk.is_empty());
    }
    Ok(taken)
}

/// A row with what a change tells of it; cells it does not tell stay.
fn overlaid(base: Option<Row>, mut new: Row) -> Row {
    if let Some(base) = base {
        for (cell, before) in new.0.iter_mut().zip(base.0) {
            if cell.is_unchanged() {
                *cell = before;
            }
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use tidelock_core::{Bytes, LineReader, Lines, TableName, TableSchema};

    fn table() -> CopyTable {
        CopyTable {
            name: TableName::new("s", "t"),
            columns: vec!["id".to_owned(), "a".to_owned(), "b".to_owned()],
            key: vec!["id".to_owned()],
            filter: None,
        }
    }

    fn row(id: i64, a: Value, b: Value) -> Row {
        Row(vec![Value::Int(id), a, b].into())
    }

    fn text(id: i64) -> String {
        Cursor::new(&table().key, &[Value::Int(id)]).map(|c| c.encode()).unwrap_or_default()
    }

    fn update(old: i64, new: Row, new_in: bool) -> Kept {
        let Some(Value::Int(id)) = new.0.first().cloned() else { panic!("no id") };
        Kept { old: Some((text(old), true)), new: Some((text(id), new_in, new)), clear: false }
    }

    fn int(n: i64) -> Value {
        Value::Int(n)
    }

    fn piece(rows: Vec<Row>) -> Piece {
        let shape = TableSchema { name: table().name, version: 1, columns: Vec::new() };
        Piece { table: Arc::new(shape), rows, lines: None, bytes: 0, cut: false }
    }

    /// Lines of the form `id a b`.
    struct Spaced;

    impl LineReader for Spaced {
        fn key(&self, line: &Bytes) -> Result<Key> {
            Ok(self.row(line)?.0.first().cloned().into_iter().collect())
        }

        fn row(&self, line: &Bytes) -> Result<Row> {
            let text = std::str::from_utf8(line).map_err(|_| Error::bug("no text"))?;
            let cells: Vec<Value> =
                text.split_whitespace().map(|cell| int(cell.parse().unwrap_or(-1))).collect();
            Ok(Row(cells.into()))
        }
    }

    /// The same rows left as text, in chunks of two lines.
    fn lined(rows: &[Row]) -> Piece {
        let number = |v: &Value| match v {
            Value::Int(n) => n.to_string(),
            _ => "-1".to_owned(),
        };
        let line = |row: &Row| row.0.iter().map(number).collect::<Vec<_>>().join(" ") + "\n";
        let text =
            rows.chunks(2).map(|two| two.iter().map(line).collect::<String>().into()).collect();
        let lines = Lines { text, count: rows.len(), reader: Arc::new(Spaced) };
        Piece { lines: Some(lines), ..piece(Vec::new()) }
    }

    /// The rows that come of a piece, in key order, whether they were read as values or left as lines.
    fn outcome(rows: Vec<Row>, kept: impl Fn() -> Vec<Kept>) -> Option<Vec<Row>> {
        let both = [lined(&rows), piece(rows)].map(|piece| {
            let mut piece = merged(piece, kept(), &table()).unwrap_or(None)?;
            let count = piece.count();
            if let Some(lines) = piece.lines.take() {
                piece.rows.extend(lines.rows().unwrap_or_default());
            }
            assert_eq!(piece.rows.len(), count, "counted wrongly");
            piece.rows.sort_by_key(|r| match r.0.first() {
                Some(Value::Int(i)) => *i,
                _ => 0,
            });
            Some(piece.rows)
        });
        let [as_lines, as_rows] = both;
        assert_eq!(as_lines, as_rows);
        as_rows
    }

    #[test]
    fn what_the_snapshot_already_shows_changes_nothing_when_laid_over_it() {
        // Insert 3, set a of 1, move 2 to 5, delete 4: laid over the state before and after each.
        let changes = || {
            vec![
                Kept {
                    old: None,
                    new: Some((text(3), true, row(3, int(3), int(3)))),
                    clear: false,
                },
                update(1, row(1, int(9), Value::Unchanged), true),
                update(2, row(5, Value::Unchanged, int(7)), true),
                Kept { old: Some((text(4), true)), new: None, clear: false },
            ]
        };
        let states = [
            vec![row(1, int(1), int(1)), row(2, int(2), int(2)), row(4, int(4), int(4))],
            vec![
                row(1, int(1), int(1)),
                row(2, int(2), int(2)),
                row(3, int(3), int(3)),
                row(4, int(4), int(4)),
            ],
            vec![
                row(1, int(9), int(1)),
                row(2, int(2), int(2)),
                row(3, int(3), int(3)),
                row(4, int(4), int(4)),
            ],
            vec![
                row(1, int(9), int(1)),
                row(3, int(3), int(3)),
                row(4, int(4), int(4)),
                row(5, int(2), int(7)),
            ],
            vec![row(1, int(9), int(1)), row(3, int(3), int(3)), row(5, int(2), int(7))],
        ];
        for state in states {
            assert_eq!(
                outcome(state, changes),
                Some(vec![row(1, int(9), int(1)), row(3, int(3), int(3)), row(5, int(2), int(7))])
            );
        }
    }

    #[test]
    fn a_row_that_leaves_the_range_is_not_in_it() {
        let rows = outcome(vec![row(1, int(1), int(1))], || {
            vec![update(1, row(99, int(1), int(1)), false)]
        });
        assert_eq!(rows, Some(Vec::new()));
    }

    #[test]
    fn a_partial_change_without_its_row_asks_for_a_new_reading_unless_it_went_away() {
        let partial = || update(7, row(7, int(1), Value::Unchanged), true);
        assert_eq!(outcome(vec![], || vec![partial()]), None);
        let gone = || Kept { old: Some((text(7), true)), new: None, clear: false };
        assert_eq!(outcome(vec![], || vec![partial(), gone()]), Some(vec![]));
    }

    #[test]
    fn of_a_piece_with_a_condition_a_partial_change_without_its_row_is_left_to_the_stream() {
        let table = CopyTable { filter: Some("a = 1".to_owned()), ..table() };
        let kept = vec![
            update(7, row(7, int(1), Value::Unchanged), true),
            update(1, row(1, Value::Unchanged, int(5)), true),
        ];
        let merged = merged(piece(vec![row(1, int(1), int(1))]), kept, &table).expect("fits");
        assert_eq!(merged.map(|piece| piece.rows), Some(vec![row(1, int(1), int(5))]));
    }

    #[test]
    fn a_truncate_empties_what_was_read() {
        let clear = || Kept { old: None, new: None, clear: true };
        let insert =
            || Kept { old: None, new: Some((text(2), true, row(2, int(2), int(2)))), clear: false };
        let rows = outcome(vec![row(1, int(1), int(1))], || vec![clear(), insert()]);
        assert_eq!(rows, Some(vec![row(2, int(2), int(2))]));
    }
}

//! Statements of the log: what begins and ends transactions, and what is done to tables.

use tidelock_core::{Code, Error, LogEvent, Result, TableName, Truncate};

use super::ddl::{self, Loss, Named, Statement, Temporary, Word};
use super::{Assembler, Frame, Touch};
use crate::binlog::{Decoded, Query};

impl Assembler {
    /// Whether two names are the same one on this server (`lower_case_table_names`).
    fn same(&self, a: &str, b: &str) -> bool {
        a == b || (self.names_folded && a.to_lowercase() == b.to_lowercase())
    }

    /// Wanted tables that a statement may be about. A name behind a dot is of the schema before the dot, or a column.
    fn mentioned(&self, query: &Query, words: &[Word]) -> Vec<TableName> {
        let mentions = |table: &TableName| {
            words.iter().enumerate().any(|(i, word)| {
                let schema = match i.checked_sub(1).and_then(|i| words.get(i)) {
                    Some(before) if word.dotted => &before.text,
                    _ => &query.database,
                };
                self.same(&word.text, &table.name) && self.same(schema, &table.schema)
            })
        };
        self.wanted.iter().filter(|t| mentions(t)).cloned().collect()
    }

    /// The wanted table of exactly this name.
    fn named(&self, query: &Query, name: Named<'_>) -> Option<TableName> {
        let schema = name.schema.unwrap_or(&query.database);
        let is = |t: &&TableName| self.same(name.table, &t.name) && self.same(schema, &t.schema);
        self.wanted.iter().find(is).cloned()
    }

    /// Whether this name means a temporary table to the session of a statement. The mark in the statement's head alone does not say so: it stays
    /// for the rest of a procedure that has used one, and what depends on the connection in other ways has it too. Where a
    /// statement about a temporary table is in the log at all (`MIXED`, `STATEMENT`), what made the table is there as well.
    fn is_temporary(&self, frame: &Frame<'_>, query: &Query, table: &TableName) -> bool {
        let own = |(server, thread, name): &(u32, u32, TableName)| {
            (*server, *thread) == (frame.server, query.thread) && name == table
        };
        frame.temporary && self.temporary.iter().any(own)
    }

    /// Keeps what the log tells of temporary tables.
    fn note_temporary(&mut self, frame: &Frame<'_>, query: &Query, words: &[Word]) {
        match ddl::temporary(words) {
            Temporary::Made(name) => {
                if let Some(table) = self.named(query, name) {
                    self.temporary.insert((frame.server, query.thread, table));
                }
            }
            // Rather one too many: its name means the mapped table then.
            Temporary::Lost if !self.temporary.is_empty() => {
                for table in self.mentioned(query, words) {
                    self.temporary.remove(&(frame.server, query.thread, table));
                }
            }
            Temporary::Lost | Temporary::Same => {}
        }
    }

    pub(super) fn query(&mut self, frame: &Frame<'_>, query: Decoded<Query>) -> Result<()> {
        let query = query.map_err(|d| self.damaged(frame, d))?;
        if self.group.is_none() {
            // Dummies that stand for events this replica is not sent.
            return Ok(());
        }
        let words = ddl::words(&query.text(&self.charsets), query.mode);
        let statement = ddl::classify(&words);
        let mut tables = self.mentioned(&query, &words);
        tables.retain(|table| !self.is_temporary(frame, &query, table));
        let renamed = match statement == Statement::Alter || statement == Statement::Rename {
            true => self.renamed(frame, &query, &words),
            false => Vec::new(),
        };
        self.note_temporary(frame, &query, &words);
        match statement {
            Statement::Begin => self.open_group(false),
            Statement::XaStart => self.open_group(true),
            Statement::Savepoint | Statement::XaEnd => {}
            Statement::Commit | Statement::XaDecide => self.end(frame, frame.seconds)?,
            Statement::Rollback => {
                if self.group.as_ref().is_some_and(|g| g.told) {
                    return Err(self.unsupported(
                        frame,
                        "a rolled back transaction with rows (a non-transactional table in it)",
                    ));
                }
                self.end(frame, frame.seconds)?;
            }
            Statement::Write => {
                self.written(frame, &query, &words, tables)?;
                self.end_standalone(frame)?;
            }
            Statement::Truncate => {
                let Some(subject) = ddl::subject(&words) else {
                    return Err(self.unsupported(frame, "a TRUNCATE that names no table"));
                };
                let ours = |table: &TableName| !self.is_temporary(frame, &query, table);
                if let Some(table) = self.named(&query, subject).filter(ours) {
                    self.tell(frame)?;
                    self.chunk.push(LogEvent::Truncate(Truncate { tables: vec![table] }));
                }
                self.end_standalone(frame)?;
            }
            Statement::Lossy => {
                for table in self.lost(&query, &words, tables) {
                    let touch = match ddl::loss(&words) {
                        Loss::Dropped => Touch::Gone,
                        Loss::Replaced => Touch::Replaced("it was replaced by CREATE OR REPLACE"),
                        Loss::Partition => Touch::Partition,
                        Loss::Rows(why) => Touch::Rows(why),
                    };
                    self.touch(table, touch);
                }
                self.end_standalone(frame)?;
            }
            Statement::Alter | Statement::Rename => {
                for (table, touch) in renamed {
                    self.touch(table, touch);
                }
                self.stale |= !tables.is_empty();
                for table in tables {
                    if self.full_metadata {
                        let taken =
                            ddl::columns_taken(&words).into_iter().map(str::to_owned).collect();
                        self.touch(table, Touch::Altered(taken));
                    } else {
                        self.fault(
                            table,
                            "it was altered, and the log names no columns (binlog_row_metadata)",
                        );
                    }
                }
                self.end_standalone(frame)?;
            }
            Statement::Index => {
                for table in tables {
                    self.touch(table, Touch::Altered(Vec::new()));
                }
                self.end_standalone(frame)?;
            }
            Statement::Other => {
                self.stale |= !tables.is_empty();
                self.end_standalone(frame)?;
            }
        }
        Ok(())
    }

    /// Gives up the mapped tables that a statement may have written; what it has only read is as it was.
    fn written(
        &mut self,
        frame: &Frame<'_>,
        query: &Query,
        words: &[Word],
        mentioned: Vec<TableName>,
    ) -> Result<()> {
        let tables = match ddl::written(words) {
            Some(subject) => {
                let ours = |table: &TableName| !self.is_temporary(frame, query, table);
                self.named(query, subject).filter(ours).into_iter().collect()
            }
            None => mentioned,
        };
        for table in tables {
            let what = format!("a write to table {table} was logged as a statement, not as rows");
            if !self.known.contains_key(&table) {
                return Err(self.unsupported(frame, &what));
            }
            let error = Error::data(Code::UnsupportedEvent, what).with_hint(
                "set binlog_format = ROW in the session that writes so, then `tidelock resync` the mapping",
            );
            self.give_up(table, error);
        }
        Ok(())
    }

    /// Wanted tables that a lossy statement is about: all of a database, the one replaced, or any mentioned.
    fn lost(&self, query: &Query, words: &[Word], mentioned: Vec<TableName>) -> Vec<TableName> {
        let second = |w: &str| words.get(1).is_some_and(|x| x.text.eq_ignore_ascii_case(w));
        if second("DATABASE") || second("SCHEMA") {
            let named = |t: &&TableName| words.iter().any(|w| self.same(&w.text, &t.schema));
            return self.wanted.iter().filter(named).cloned().collect();
        }
        match ddl::subject(words) {
            Some(subject) if second("OR") => self.named(query, subject).into_iter().collect(),
            Some(_) | None => mentioned,
        }
    }

    /// Wanted tables that a renaming takes away, or gives another table's rows. An online schema changer's copy
    /// holds the same rows in other columns.
    fn renamed(&self, frame: &Frame<'_>, query: &Query, words: &[Word]) -> Vec<(TableName, Touch)> {
        let Some((from, to)) = ddl::renames(words) else { return Vec::new() };
        let mut found = Vec::new();
        for (old, new) in from.iter().zip(&to) {
            if let Some(table) = self.named(query, *new) {
                let touch = if ddl::is_shadow(old.table, &table.name) {
                    Touch::Shadowed
                } else {
                    Touch::Replaced("another table was given its name")
                };
                found.push((table, touch));
            }
            if let Some(table) = self.named(query, *old)
                && !self.is_temporary(frame, query, &table)
                && !to.iter().any(|new| self.named(query, *new).as_ref() == Some(&table))
            {
                found.push((table, Touch::Gone));
            }
        }
        found
    }

    fn open_group(&mut self, xa: bool) {
        if let Some(group) = &mut self.group {
            group.standalone = false;
            group.xa |= xa;
        }
    }

    fn end_standalone(&mut self, frame: &Frame<'_>) -> Result<()> {
        if self.group.as_ref().is_some_and(|g| g.standalone) {
            self.end(frame, frame.seconds)?;
        }
        Ok(())
    }
}

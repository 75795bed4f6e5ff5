//! Calls of procedures: one trip each.
//!
//! A trip releases the savepoint of the call before, sets it anew and calls. A procedure that ended our transaction
//! took the savepoint with it, so the release fails (1305) and names that call. After an error of the call itself
//! `ROLLBACK TO` asks the same question. (A procedure that catches a deadlock has lost the transaction as well.)
//!
//! What a procedure sets for its session outlives it: a zone, a character set or a mode would decide what is written next. So all of
//! that is set anew in the trip that releases the savepoint, also where the call is taken back.
//!
//! Values are spelled out, each in the parameter's own type, and the server assigns them under this session's strict
//! mode: what a parameter cannot hold is an error. Inside, a procedure runs under the mode that it was made with. What
//! it selects is read and thrown away.

use std::time::Instant;

use mysql_async::prelude::Queryable;
use tidelock_core::{Call, Code, Error, ErrorKind, Result, RoutineKind};

use super::lease::JUDGES;
use super::{MySqlSink, PACKET_HEAD, WRITE};
use crate::session::quote;
use crate::{error, spelled};

const SAVEPOINT: &str = "tidelock_call";

/// Warnings that tell of a value that was cut or changed. Others, "no data" among them, are the procedure's own affair.
const CHANGED: [u32; 10] = [1264, 1265, 1292, 1300, 1301, 1364, 1366, 1406, 1411, 3140];

fn doing(place: &str, call: &Call) -> String {
    format!("{place}: mapping {}: calling {}", call.mapping, call.routine.name)
}

fn statement(call: &Call) -> Result<String> {
    let routine = &call.routine;
    if routine.kind != RoutineKind::Procedure || call.arguments.len() != routine.parameters.len() {
        return Err(Error::bug(format!("routine {} cannot be called so", routine.name)));
    }
    let mut sql = format!("CALL {}.{}(", quote(&routine.name.schema), quote(&routine.name.name));
    for (i, (parameter, value)) in routine.parameters.iter().zip(&call.arguments).enumerate() {
        if i > 0 {
            sql.push(',');
        }
        spelled::put_literal(parameter, value, &mut sql)?;
    }
    sql.push(')');
    Ok(sql)
}

fn commits(place: &str, call: &Call) -> Error {
    Error::data(
        Code::RoutineCommits,
        format!("{}: the procedure ended our transaction", doing(place, call)),
    )
    .with_detail(
        "by COMMIT, ROLLBACK, a statement that commits by itself, or a deadlock that it caught",
    )
    .with_hint(
        "take COMMIT, START TRANSACTION and DDL out of it; SAVEPOINT and ROLLBACK TO are fine",
    )
}

impl MySqlSink {
    pub(super) async fn calls(&mut self, calls: &[Call]) -> Result<()> {
        let place = self.session.place.clone();
        let mut before: Option<&Call> = None;
        for (i, call) in calls.iter().enumerate() {
            let at = |error: Error| match (error.kind(), error.code()) {
                (ErrorKind::Data, _) | (_, Code::Rejected) => error.with_batch(i),
                _ => error,
            };
            let released = before.map(|_| format!("RELEASE SAVEPOINT {SAVEPOINT}; {JUDGES}; "));
            let call_sql = statement(call).map_err(at)?;
            let sql = format!("{}SAVEPOINT {SAVEPOINT}; {call_sql}", released.unwrap_or_default());
            if sql.len() + PACKET_HEAD >= self.packet_bytes_max {
                return Err(at(too_large(&place, call, sql.len(), self.packet_bytes_max)));
            }
            self.asked = Instant::now();
            if let Err(error) = self.trip(&sql).await {
                match before.filter(|_| error::lost_savepoint(&error, SAVEPOINT)) {
                    Some(before) => return Err(commits(&place, before).with_batch(i - 1)),
                    None => return Err(at(self.refused_call(call, error).await)),
                }
            }
            self.unchanged(call).await.map_err(at)?;
            before = Some(call);
        }
        let Some(last) = before else { return Ok(()) };
        match self.trip(&format!("RELEASE SAVEPOINT {SAVEPOINT}; {JUDGES}")).await {
            Ok(()) => Ok(()),
            Err(error) if error::lost_savepoint(&error, SAVEPOINT) => {
                Err(commits(&place, last).with_batch(calls.len() - 1))
            }
            Err(error) => Err(error::map(&place, error)),
        }
    }

    /// The statements of one trip, and whatever they give.
    async fn trip(&mut self, sql: &str) -> std::result::Result<(), mysql_async::Error> {
        match tokio::time::timeout(WRITE, self.session.conn.query_drop(sql)).await {
            Ok(answer) => answer,
            Err(_) => Err(mysql_async::DriverError::ConnectionClosed.into()),
        }
    }

    /// The error of a call, unless the procedure ended our transaction before it failed.
    async fn refused_call(&mut self, call: &Call, error: mysql_async::Error) -> Error {
        let place = self.session.place.clone();
        let told = error::map_call(&doing(&place, call), error, call);
        // After a deadlock the savepoint is gone through no fault of the procedure's.
        if told.kind() != ErrorKind::Data {
            let called = format!("mapping {}: calling {}", call.mapping, call.routine.name);
            let told = self.looked_into(told).await;
            return match told.code() == Code::Rejected {
                true => self.still_open(call, told.at(called)).await,
                false => told,
            };
        }
        self.still_open(call, told).await
    }

    /// The error, unless the savepoint before the call is gone.
    async fn still_open(&mut self, call: &Call, told: Error) -> Error {
        let place = self.session.place.clone();
        match self.trip(&format!("ROLLBACK TO SAVEPOINT {SAVEPOINT}; {JUDGES}")).await {
            Err(error) if error::lost_savepoint(&error, SAVEPOINT) => commits(&place, call),
            Err(error) => error::map(&place, error),
            Ok(()) => told,
        }
    }

    async fn unchanged(&mut self, call: &Call) -> Result<()> {
        if self.session.conn.get_warnings() == 0 {
            return Ok(());
        }
        let rows: Vec<(String, u32, String)> = self.session.query("SHOW WARNINGS").await?;
        let changed =
            |(level, code, _): &&(String, u32, String)| level != "Note" && CHANGED.contains(code);
        match rows.iter().find(changed) {
            None => Ok(()),
            Some((_, code, _)) => Err(Error::data(
                Code::NotRepresentable,
                format!("{}: a value was changed on its way", doing(&self.session.place, call)),
            )
            .with_detail(format!("warning {code}"))
            .with_hint("make the procedure anew under a strict sql_mode")),
        }
    }
}

fn too_large(place: &str, call: &Call, bytes: usize, bytes_max: usize) -> Error {
    Error::data(
        Code::NotRepresentable,
        format!(
            "{}: a call of {bytes} bytes is larger than max_allowed_packet ({bytes_max}) allows",
            doing(place, call)
        ),
    )
    .with_hint("raise max_allowed_packet of this server (up to 1073741824)")
}

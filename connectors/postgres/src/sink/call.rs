//! Calls of routines, pipelined.
//!
//! No savepoint is needed here: the server refuses to end a transaction inside a routine that was called in a
//! transaction block, before anything is committed, and a savepoint would cost a subtransaction a call.
//!
//! What a routine sets for its session outlives it (a role, a zone, commits that do not wait for the disk), so the session is made
//! again what it was behind the calls of a trip, in the same trip.
//!
//! Arguments are given by name and in the parameter's own type. Parameters have no length, precision or scale on
//! this server (`varchar(10)` is `varchar`): what is too long is only met where the routine stores it.

use std::collections::HashMap;
use std::pin::Pin;

use bytes::{BufMut, BytesMut};
use futures_util::future::{MaybeDone, maybe_done};
use tidelock_core::{Call, CallTarget, Error, Result, RoutineKind, TargetColumn, Value};
use tokio_postgres::Statement;
use tokio_postgres::types::{IsNull, ToSql, Type};

use super::{CALL_TIMEOUT, PgSink, Stage, WRITE_TIMEOUT, attribute, send_in_order};
use crate::error;
use crate::quote::{ident, table};
use crate::upsert;

/// Calls that are on their way at once.
const CALLS_A_TRIP: usize = 500;

/// An argument in its binary form.
struct Argument(BytesMut);

impl Argument {
    fn new(value: &Value, parameter: &TargetColumn) -> Result<Argument> {
        let mut bytes = BytesMut::new();
        upsert::put_single(value, parameter, &mut bytes)?;
        Ok(Argument(bytes))
    }
}

impl std::fmt::Debug for Argument {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // It holds a row's value.
        f.write_str("Argument")
    }
}

impl ToSql for Argument {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self.0.split_at_checked(4) {
            Some((length, bytes)) if length != (-1_i32).to_be_bytes() => {
                out.put_slice(bytes);
                Ok(IsNull::No)
            }
            _ => Ok(IsNull::Yes),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    tokio_postgres::types::to_sql_checked!();
}

fn statement(routine: &CallTarget) -> (String, Vec<Type>) {
    let mut types = Vec::with_capacity(routine.parameters.len());
    let mut arguments = Vec::with_capacity(routine.parameters.len());
    for (i, parameter) in routine.parameters.iter().enumerate() {
        let (kind, expression) = upsert::single(parameter, &format!("${}", i + 1));
        types.push(kind);
        arguments.push(format!("{} => {expression}", ident(&parameter.name)));
    }
    let verb = match routine.kind {
        RoutineKind::Function => "SELECT",
        RoutineKind::Procedure => "CALL",
    };
    (format!("{verb} {}({})", table(&routine.name), arguments.join(", ")), types)
}

impl PgSink {
    pub(super) async fn calls(&mut self, calls: &[Call]) -> Result<()> {
        self.opened()?;
        for (trip, some) in calls.chunks(CALLS_A_TRIP).enumerate() {
            self.call_some(trip * CALLS_A_TRIP, some).await?;
        }
        Ok(())
    }

    async fn call_some(&mut self, first: usize, calls: &[Call]) -> Result<()> {
        let mut statements: HashMap<u64, Statement> = HashMap::new();
        let mut work = Vec::with_capacity(calls.len());
        for (offset, call) in calls.iter().enumerate() {
            self.note(&call.mapping, &call.routine.name)?;
            let at = |error: Error| attribute(error, first + offset);
            let statement = match statements.get(&call.routine.id) {
                Some(statement) => statement.clone(),
                None => {
                    let (sql, types) = statement(&call.routine);
                    let statement = self.kept(&doing(call), sql, &types).await.map_err(at)?;
                    statements.insert(call.routine.id, statement.clone());
                    statement
                }
            };
            if call.arguments.len() != call.routine.parameters.len() {
                return Err(Error::bug(format!("{}: arguments are missing", doing(call))));
            }
            let arguments = call.arguments.iter().zip(&call.routine.parameters);
            let arguments = arguments.map(|(value, parameter)| Argument::new(value, parameter));
            work.push((statement, arguments.collect::<Result<Vec<_>>>().map_err(at)?));
        }
        let opening = self.opening()?;
        let client = &self.session.client;
        let mut opened = Box::pin(maybe_done(self.send_opening(opening)));
        let mut answers: Vec<Pin<Box<MaybeDone<_>>>> = work
            .iter()
            .map(|(statement, arguments)| {
                let params: Vec<&(dyn ToSql + Sync)> = arguments.iter().map(|a| a as _).collect();
                Box::pin(maybe_done(async move { client.execute(statement, &params).await }))
            })
            .collect();
        let mut again = Box::pin(maybe_done(client.batch_execute(&self.again)));
        send_in_order(std::slice::from_mut(&mut opened)).await;
        send_in_order(&mut answers).await;
        send_in_order(std::slice::from_mut(&mut again)).await;
        opened.as_mut().await;
        opened.as_mut().take_output().unwrap_or(Ok(()))?;
        for (offset, (answer, call)) in answers.iter_mut().zip(calls).enumerate() {
            let result = async {
                answer.as_mut().await;
                // Completed right above, and taken nowhere else.
                answer.as_mut().take_output().unwrap_or(Ok(0))
            };
            let doing = doing(call);
            let told = |e: &_, doing: &str| error::from_call(e, doing, call);
            let answered = self.session.call_told(&doing, WRITE_TIMEOUT, result, told).await;
            answered.map_err(|error| attribute(error, first + offset))?;
        }
        let settled = async {
            again.as_mut().await;
            again.as_mut().take_output().unwrap_or(Ok(()))
        };
        let doing = "setting what the session is";
        self.session.call(doing, Stage::Write, CALL_TIMEOUT, settled).await?;
        drop((answers, opened, again));
        self.opened()?.sent = true;
        Ok(())
    }
}

fn doing(call: &Call) -> String {
    format!("mapping {}: calling {}", call.mapping, call.routine.name)
}

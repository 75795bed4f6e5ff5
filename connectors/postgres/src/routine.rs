//! Functions and procedures, and what in their text and settings a target transaction does not bear.

use std::collections::HashMap;

use tidelock_core::{
    DataType, Finding, Parameter, ParameterMode, Result, Routine, RoutineKind, TableName,
};
use tokio_postgres::Row;

use crate::quote::ident;
use crate::session::{Session, get};
use crate::types::TypeMap;

/// Those of extensions are left out: nobody maps to them, and there are hundreds.
const ROUTINES_SQL: &str = "\
SELECT n.nspname::text, p.proname::text, p.prokind::text, p.proisstrict, p.provolatile::text, \
       p.provariadic <> 0, l.lanname::text, nullif(p.prosrc, ''), \
       coalesce(p.proallargtypes, p.proargtypes::oid[]), p.proargmodes::text[], p.proargnames, \
       p.pronargdefaults::int4, t.typname::text, \
       count(*) OVER (PARTITION BY p.pronamespace, p.proname), \
       pg_get_function_identity_arguments(p.oid), has_function_privilege(p.oid, 'EXECUTE') \
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace \
JOIN pg_language l ON l.oid = p.prolang JOIN pg_type t ON t.oid = p.prorettype \
WHERE n.nspname = ANY($1) AND p.prokind IN ('f', 'p') AND has_schema_privilege(n.oid, 'USAGE') \
  AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass \
    AND d.objid = p.oid AND d.deptype = 'e') \
ORDER BY n.nspname, p.proname, p.oid";

const TYPES_SQL: &str = "\
SELECT oid, format_type(oid, NULL), typtype = 'p' FROM pg_type WHERE oid = ANY($1)";

/// A routine, and whether our role may call it.
pub(crate) struct Known {
    pub(crate) routine: Routine,
    pub(crate) callable: bool,
    /// As a GRANT names it.
    pub(crate) signature: String,
}

/// A type of a parameter: its spelling, and whether it stands for many.
type Spelled = HashMap<u32, (String, bool)>;

/// The routines of these schemas.
pub(crate) async fn read(session: &Session, schemas: &[String]) -> Result<Vec<Known>> {
    let schemas: Vec<&String> =
        schemas.iter().filter(|s| !s.starts_with("pg_") && *s != "information_schema").collect();
    let rows = session.query("reading routines", ROUTINES_SQL, &[&schemas]).await?;
    let mut oids: Vec<u32> = Vec::new();
    for row in &rows {
        oids.extend(get::<Vec<u32>>(row, 8)?);
    }
    oids.sort_unstable();
    oids.dedup();
    let mut spelled = Spelled::new();
    for row in &session.query("reading types", TYPES_SQL, &[&oids]).await? {
        spelled.insert(get(row, 0)?, (get(row, 1)?, get(row, 2)?));
    }
    let mut types = TypeMap::default();
    types.load(session, &oids).await?;
    rows.iter().map(|row| known(row, &types, &spelled)).collect()
}

fn known(row: &Row, types: &TypeMap, spelled: &Spelled) -> Result<Known> {
    let name = TableName::new(get::<String>(row, 0)?, get::<String>(row, 1)?);
    let kind = match get::<&str>(row, 2)? {
        "p" => RoutineKind::Procedure,
        _ => RoutineKind::Function,
    };
    let mut refusals = Vec::new();
    let count: i64 = get(row, 13)?;
    if count > 1 {
        refusals.push(format!("there are {count} routines of this name, with other parameters"));
    }
    if get(row, 5)? {
        refusals.push("it takes a variable number of arguments".to_owned());
    }
    if matches!(get::<&str>(row, 12)?, "trigger" | "event_trigger") {
        refusals.push("it is for triggers".to_owned());
    }
    let parameters = parameters(row, kind, types, spelled, &mut refusals)?;
    let body = match get::<&str>(row, 6)? {
        "plpgsql" | "sql" => get::<Option<String>>(row, 7)?,
        _ => None,
    };
    let word = match kind {
        RoutineKind::Function => "FUNCTION",
        RoutineKind::Procedure => "PROCEDURE",
    };
    let arguments: &str = get(row, 14)?;
    let signature = format!("{word} {}.{}({arguments})", ident(&name.schema), ident(&name.name));
    let mut hazards = Vec::new();
    if get(row, 3)? {
        hazards.push(
            Finding::problem(format!("function {name} is STRICT"))
                .hint("a call with a NULL among its arguments would do nothing, without a word")
                .sql(format!("ALTER {signature} CALLED ON NULL INPUT;")),
        );
    }
    if kind == RoutineKind::Function && get::<&str>(row, 4)? != "v" {
        hazards.push(
            Finding::problem(format!("function {name} is not VOLATILE: it may not write"))
                .sql(format!("ALTER {signature} VOLATILE;")),
        );
    }
    for statement in body.iter().flat_map(|body| ends_transaction(body)) {
        hazards.push(
            Finding::problem(format!("{name} runs {statement}"))
                .hint("it is called inside a transaction, where the server refuses that"),
        );
    }
    let callable = get(row, 15)?;
    let routine = Routine { name, kind, parameters, body, refusals, hazards };
    Ok(Known { routine, callable, signature })
}

fn parameters(
    row: &Row,
    kind: RoutineKind,
    types: &TypeMap,
    spelled: &Spelled,
    refusals: &mut Vec<String>,
) -> Result<Vec<Parameter>> {
    let oids: Vec<u32> = get(row, 8)?;
    let modes: Vec<String> = get::<Option<_>>(row, 9)?.unwrap_or_default();
    let names: Vec<String> = get::<Option<_>>(row, 10)?.unwrap_or_default();
    let mut parameters = Vec::with_capacity(oids.len());
    for (i, oid) in oids.iter().enumerate() {
        let mode = match modes.get(i).map(String::as_str) {
            Some("o" | "t") => ParameterMode::Out,
            Some("b") => ParameterMode::InOut,
            _ => ParameterMode::In,
        };
        if mode == ParameterMode::Out && kind == RoutineKind::Function {
            continue;
        }
        let name = names.get(i).cloned().unwrap_or_default();
        if name.is_empty() {
            refusals.push(format!("its parameter {} has no name", i + 1));
        }
        if mode == ParameterMode::Out {
            refusals.push(format!("its parameter {name} is OUT"));
        }
        let (native, pseudo) = spelled.get(oid).cloned().unwrap_or_default();
        if pseudo {
            refusals.push(format!("its parameter {name} is of any type ({native})"));
        }
        let data_type = match pseudo {
            true => DataType::Unsupported { name: native.clone() },
            false => types.data_type(*oid, -1),
        };
        parameters.push(Parameter { name, data_type, native, mode, has_default: false });
    }
    // Defaults belong to the last of what goes in.
    let defaults = usize::try_from(get::<i32>(row, 11)?).unwrap_or(0);
    let inputs = parameters.iter_mut().rev().filter(|p| p.mode != ParameterMode::Out);
    inputs.take(defaults).for_each(|p| p.has_default = true);
    Ok(parameters)
}

/// What stands in the way of calling a routine.
pub(crate) fn target(found: &[Known], name: &TableName, role: &str, findings: &mut Vec<Finding>) {
    let of_name: Vec<&Known> = found.iter().filter(|known| known.routine.name == *name).collect();
    let Some(known) = of_name.first() else {
        findings.push(
            Finding::problem(format!("routine {name} does not exist"))
                .hint("or our role may not look into its schema")
                .sql(format!("GRANT USAGE ON SCHEMA {} TO {};", ident(&name.schema), ident(role))),
        );
        return;
    };
    if !known.callable {
        findings.push(Finding::problem(format!("role {role} may not call {name}")).sql(format!(
            "GRANT EXECUTE ON {} TO {};",
            known.signature,
            ident(role)
        )));
    }
    for refusal in &known.routine.refusals {
        findings.push(Finding::problem(format!("routine {name}: {refusal}")));
    }
    findings.extend(known.routine.hazards.iter().cloned());
}

/// The statements of a body that end a transaction.
fn ends_transaction(body: &str) -> Vec<&'static str> {
    let words = words(body);
    let mut found = Vec::new();
    for (i, word) in words.iter().enumerate() {
        let before = i.checked_sub(1).and_then(|i| words.get(i)).map(String::as_str);
        let starts = matches!(before, None | Some(";" | ">" | "begin" | "then" | "else" | "loop"));
        let next = words.get(i + 1).map_or("", String::as_str);
        match word.as_str() {
            "commit" if starts => found.push("COMMIT"),
            "rollback" if starts && next != "to" => found.push("ROLLBACK"),
            _ => {}
        }
    }
    found.dedup();
    found
}

/// The words and marks of a body, in lower case, without comments, texts and names in quotes.
fn words(body: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = body;
    while let Some(c) = rest.chars().next() {
        let skipped = match c {
            '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => comment(rest),
            '\'' => quoted(rest, '\'', words.last().is_some_and(|w| w == "e")),
            '"' => quoted(rest, '"', false),
            '$' => dollars(rest),
            _ => 0,
        };
        let end = if skipped > 0 {
            words.push(String::new());
            skipped
        } else if c.is_alphanumeric() || c == '_' {
            let part_of = |x: char| x.is_alphanumeric() || x == '_' || x == '$';
            let end = rest.find(|x| !part_of(x)).unwrap_or(rest.len());
            words.push(rest.get(..end).unwrap_or("").to_lowercase());
            end
        } else {
            if !c.is_whitespace() {
                words.push(c.to_string());
            }
            c.len_utf8()
        };
        // Comments are nothing, not even a word in between.
        if skipped > 0 && matches!(c, '-' | '/') {
            words.pop();
        }
        rest = rest.get(end..).unwrap_or("");
    }
    words
}

/// The length of a comment, which may hold others.
fn comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of a text or name in quotes; a doubled quote reads as two of them.
fn quoted(text: &str, quote: char, escapes: bool) -> usize {
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' if escapes => drop(chars.next()),
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// The length of a text between dollars (`$$ … $$`, `$tag$ … $tag$`); 0 if it is none.
fn dollars(text: &str) -> usize {
    let Some(end) = text.get(1..).and_then(|t| t.find('$')).map(|end| end + 2) else { return 0 };
    let tag = text.get(..end).unwrap_or("");
    let inner = tag.trim_matches('$');
    let is_tag = |c: char| c.is_alphanumeric() || c == '_';
    if !inner.chars().all(is_tag) || inner.starts_with(|c: char| c.is_ascii_digit()) {
        return 0;
    }
    let close = text.get(end..).and_then(|t| t.find(tag));
    close.map_or(text.len(), |close| end + close + tag.len())
}

#[cfg(test)]
mod tests {
    use super::ends_transaction;

    #[test]
    fn only_statements_end_a_transaction() {
        for (body, ends) in [
            ("BEGIN COMMIT; END", vec!["COMMIT"]),
            ("BEGIN IF x THEN rollback and chain; END IF; commit; END", vec!["ROLLBACK", "COMMIT"]),
            ("<<a>> BEGIN LOOP <<b>> COMMIT; END LOOP; END", vec!["COMMIT"]),
            ("BEGIN /* a /* b */ */ COMMIT; END", vec!["COMMIT"]),
            ("BEGIN x := 'it''s'; COMMIT; END", vec!["COMMIT"]),
            ("BEGIN x := E'\\'; COMMIT; --'; END", vec![]),
            ("BEGIN -- ; COMMIT;\n /* ; COMMIT; */ x := ';COMMIT;'; END", vec![]),
            ("BEGIN SELECT commit INTO x FROM t ORDER BY commit; END", vec![]),
            ("BEGIN EXECUTE $$; COMMIT; $$; EXECUTE $a$; COMMIT; $b$ $a$; END", vec![]),
            ("BEGIN x := \"a; COMMIT;\"; y := $1; END", vec![]),
            ("BEGIN ROLLBACK TO a; SAVEPOINT a; END", vec![]),
        ] {
            assert_eq!(ends_transaction(body), ends, "{body}");
        }
    }
}

//! New tables: what `tidelock plan` prints for a target that lacks them.
//!
//! The engine says what a table must hold ([`NewTable`], made of the *source's* columns); the target's
//! [`Dialect`] says how its server declares that ([`Creation`]), without loss, or why it cannot
//! ([`Uncarried`]). A dialect is pure once it was made: it knows what was there when it was asked for, and
//! remembers what its own answers make (schemas, enum types), so that nothing is made twice.

use crate::schema::{Column, DataType, Table, TableName};

/// A column of a table to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewColumn {
    /// Its name at the target.
    pub name: String,
    /// The source's column that feeds it.
    pub from: Column,
}

/// A table to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTable {
    /// Its name.
    pub name: TableName,
    /// Its columns in order.
    pub columns: Vec<NewColumn>,
    /// The columns of its primary key.
    pub key: Vec<String>,
    /// Whether the source is the same kind of server, so that its own spelling of a type is understood.
    pub same_family: bool,
}

/// What a person should know about one column of a new table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The column.
    pub column: String,
    /// What is to be known.
    pub text: String,
}

/// How a server makes a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Creation {
    /// The statements in order, each with its final semicolon. They belong together: the last makes the table.
    pub statements: Vec<String>,
    /// Whether the first statement makes the table's schema.
    pub makes_schema: bool,
    /// What changes on the way, column by column.
    pub notes: Vec<Note>,
    /// The table as the catalog will show it.
    pub table: Table,
}

/// Something that the server cannot declare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uncarried {
    /// The column; the table itself if absent.
    pub column: Option<String>,
    /// Why.
    pub why: String,
}

/// How one server declares tables.
pub trait Dialect: Send {
    /// The same dialect with a memory of its own, to try something out.
    fn boxed(&self) -> Box<dyn Dialect>;

    /// The statements that make a table; later answers count on their having been run.
    fn create_table(&mut self, table: &NewTable) -> Result<Creation, Vec<Uncarried>>;

    /// The statements that add a column to a table that is there, and what a person should know of it. The
    /// column allows NULL: the rows that are there have nothing in it.
    fn add_column(
        &mut self,
        table: &TableName,
        column: &NewColumn,
        same_family: bool,
    ) -> Result<(Vec<String>, Vec<Note>), Uncarried>;
}

/// A default that means the same on every server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Literal {
    /// A number.
    Number(String),
    /// A text or label without backslashes and control characters.
    Text(String),
    /// A truth value.
    Truth(bool),
}

impl Literal {
    /// The default of a column as a column of type `to` takes it; `None` if it is an expression, or would mean
    /// something else there.
    pub fn of(from: &Column, to: &DataType) -> Option<Literal> {
        let text = from.default.as_ref()?.literal.as_deref()?;
        let truth = match text {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        };
        match (&from.data_type, to) {
            (_, DataType::Bool) => truth.map(Literal::Truth),
            (DataType::Bool, DataType::Int { .. }) => {
                truth.map(|t| Literal::Number(if t { "1" } else { "0" }.to_owned()))
            }
            (
                DataType::Int { .. } | DataType::Decimal { .. },
                DataType::Int { .. } | DataType::Decimal { .. },
            ) => {
                let digits = text.strip_prefix('-').unwrap_or(text);
                let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
                let most = match to {
                    DataType::Decimal { scale, .. } => scale.map_or(usize::MAX, usize::from),
                    _ => 0,
                };
                let number = !whole.is_empty()
                    && whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit());
                (number && fraction.len() <= most).then(|| Literal::Number(text.to_owned()))
            }
            (DataType::Text { .. } | DataType::Enum { .. }, to) => {
                let fits = match to {
                    DataType::Text { chars_max, .. } => {
                        chars_max.is_none_or(|n| text.chars().count() as u64 <= n)
                    }
                    DataType::Enum { labels } => labels.iter().any(|l| l == text),
                    _ => false,
                };
                let plain = !text.chars().any(|c| c == '\\' || c.is_control());
                (fits && plain).then(|| Literal::Text(text.to_owned()))
            }
            _ => None,
        }
    }
}

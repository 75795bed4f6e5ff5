//! TABLE_MAP events: the shape of the rows that follow, with the optional metadata of
//! `binlog_row_metadata`.

use super::{Buf, Damage, Decoded, text};

/// Column types by their numbers in the protocol.
pub(crate) mod wire {
    pub const TINY: u8 = 1;
    pub const SHORT: u8 = 2;
    pub const LONG: u8 = 3;
    pub const FLOAT: u8 = 4;
    pub const DOUBLE: u8 = 5;
    pub const TIMESTAMP: u8 = 7;
    pub const LONGLONG: u8 = 8;
    pub const INT24: u8 = 9;
    pub const DATE: u8 = 10;
    pub const TIME: u8 = 11;
    pub const DATETIME: u8 = 12;
    pub const YEAR: u8 = 13;
    pub const VARCHAR: u8 = 15;
    pub const BIT: u8 = 16;
    pub const TIMESTAMP2: u8 = 17;
    pub const DATETIME2: u8 = 18;
    pub const TIME2: u8 = 19;
    pub const VECTOR: u8 = 242;
    pub const JSON: u8 = 245;
    pub const NEWDECIMAL: u8 = 246;
    pub const ENUM: u8 = 247;
    pub const SET: u8 = 248;
    pub const TINY_BLOB: u8 = 249;
    pub const MEDIUM_BLOB: u8 = 250;
    pub const LONG_BLOB: u8 = 251;
    pub const BLOB: u8 = 252;
    pub const VAR_STRING: u8 = 253;
    pub const STRING: u8 = 254;
    pub const GEOMETRY: u8 = 255;
}

/// A column as the event describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MapColumn {
    /// Type; ENUM and SET are already told from STRING.
    pub wire: u8,
    /// Length, precision or size, as the type wants it.
    pub meta: u16,
    pub name: Option<String>,
    pub unsigned: Option<bool>,
    pub collation: Option<u64>,
    pub labels: Option<Vec<Vec<u8>>>,
    pub primary: bool,
}

/// A decoded TABLE_MAP event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableMap {
    pub id: u64,
    pub schema: String,
    pub table: String,
    pub columns: Vec<MapColumn>,
    /// Whether the primary key was named at all.
    pub has_primary: bool,
}

/// A column's type has a number that is not known here.
pub(crate) const UNKNOWN_TYPE: Damage =
    Damage("a column has an unknown type (a compressed column?)");
/// No server makes wider tables.
const COLUMNS_MAX: usize = 4096;

impl TableMap {
    /// Which table it is of, and nothing of its columns.
    pub fn head(data: &[u8]) -> Decoded<TableMap> {
        Self::begin(&mut Buf(data))
    }

    pub fn decode(data: &[u8]) -> Decoded<TableMap> {
        let mut buf = Buf(data);
        let mut map = Self::begin(&mut buf)?;
        let count = buf.len()?;
        if count > COLUMNS_MAX {
            return Err(Damage("its table has too many columns"));
        }
        let types = buf.take(count)?;
        let mut meta = Buf(buf.lenenc_bytes()?);
        map.columns.reserve_exact(count);
        for &wire in types {
            map.columns.push(column(wire, &mut meta)?);
        }
        buf.take(count.div_ceil(8))?;
        while !buf.is_empty() {
            let field = buf.u8()?;
            let value = Buf(buf.lenenc_bytes()?);
            map.optional(field, value)?;
        }
        Ok(map)
    }

    fn begin(buf: &mut Buf<'_>) -> Decoded<TableMap> {
        let id = buf.le(6)?;
        buf.take(2)?;
        let n = usize::from(buf.u8()?);
        let schema = text(buf.take(n)?);
        buf.u8()?;
        let n = usize::from(buf.u8()?);
        let table = text(buf.take(n)?);
        buf.u8()?;
        Ok(TableMap { id, schema, table, columns: Vec::new(), has_primary: false })
    }

    fn optional(&mut self, field: u8, mut value: Buf<'_>) -> Decoded<()> {
        match field {
            1 => {
                let bits = value.0;
                let numeric = self.columns.iter_mut().filter(|c| is_numeric(c.wire));
                for (i, column) in numeric.enumerate() {
                    let byte = bits.get(i / 8).ok_or(Damage("signedness is cut short"))?;
                    column.unsigned = Some(byte & (0x80 >> (i % 8)) != 0);
                }
            }
            2 => self.default_charset(value, is_character)?,
            3 => self.column_charset(value)?,
            4 => {
                for column in &mut self.columns {
                    let n = value.len()?;
                    column.name = Some(text(value.take(n)?));
                }
            }
            5 | 6 => {
                let of = if field == 5 { wire::SET } else { wire::ENUM };
                for column in self.columns.iter_mut().filter(|c| c.wire == of) {
                    let count = value.len()?;
                    let mut labels = Vec::new();
                    for _ in 0..count {
                        labels.push(value.lenenc_bytes()?.to_vec());
                    }
                    column.labels = Some(labels);
                }
            }
            8 | 9 => {
                self.has_primary = true;
                while !value.is_empty() {
                    let i = value.len()?;
                    if field == 9 {
                        value.len()?;
                    }
                    self.columns.get_mut(i).ok_or(Damage("its key has no such column"))?.primary =
                        true;
                }
            }
            10 => self.default_charset(value, |w| matches!(w, wire::ENUM | wire::SET))?,
            11 => {
                let listed = |c: &&mut MapColumn| matches!(c.wire, wire::ENUM | wire::SET);
                for column in self.columns.iter_mut().filter(listed) {
                    column.collation = Some(value.lenenc()?);
                }
            }
            // Geometry kinds, visibility, vectors: nothing that rows need.
            _ => {}
        }
        Ok(())
    }

    fn default_charset(&mut self, mut value: Buf<'_>, of: fn(u8) -> bool) -> Decoded<()> {
        let default = value.lenenc()?;
        let mut others = Vec::new();
        while !value.is_empty() {
            others.push((value.len()?, value.lenenc()?));
        }
        // Whether a geometry counts as a character column differs from version to version; where
        // one is present only the catalog is sure.
        if of(wire::BLOB) && self.columns.iter().any(|c| c.wire == wire::GEOMETRY) {
            return Ok(());
        }
        for (i, column) in self.columns.iter_mut().filter(|c| of(c.wire)).enumerate() {
            let other = others.iter().find(|(at, _)| *at == i).map(|(_, id)| *id);
            column.collation = Some(other.unwrap_or(default));
        }
        Ok(())
    }

    fn column_charset(&mut self, mut value: Buf<'_>) -> Decoded<()> {
        let mut ids = Vec::new();
        while !value.is_empty() {
            ids.push(value.lenenc()?);
        }
        let plain = self.columns.iter().filter(|c| is_character(c.wire)).count();
        let with_geometry = ids.len() != plain;
        let counts = |w| is_character(w) || (with_geometry && w == wire::GEOMETRY);
        if self.columns.iter().filter(|c| counts(c.wire)).count() != ids.len() {
            return Err(Damage("its character sets do not fit its columns"));
        }
        for (column, id) in self.columns.iter_mut().filter(|c| counts(c.wire)).zip(ids) {
            column.collation = Some(id);
        }
        Ok(())
    }
}

fn is_numeric(w: u8) -> bool {
    matches!(
        w,
        0 | wire::TINY
            | wire::SHORT
            | wire::INT24
            | wire::LONG
            | wire::LONGLONG
            | wire::NEWDECIMAL
            | wire::FLOAT
            | wire::DOUBLE
            | wire::YEAR
    )
}

fn is_character(w: u8) -> bool {
    matches!(w, wire::STRING | wire::VAR_STRING | wire::VARCHAR | wire::BLOB)
}

fn column(wire: u8, meta: &mut Buf<'_>) -> Decoded<MapColumn> {
    let mut column = MapColumn { wire, ..MapColumn::default() };
    match wire {
        wire::TINY
        | wire::SHORT
        | wire::LONG
        | wire::LONGLONG
        | wire::INT24
        | wire::TIMESTAMP
        | wire::DATE
        | wire::TIME
        | wire::DATETIME
        | wire::YEAR => {}
        wire::FLOAT
        | wire::DOUBLE
        | wire::TIMESTAMP2
        | wire::DATETIME2
        | wire::TIME2
        | wire::VECTOR
        | wire::JSON
        | wire::TINY_BLOB
        | wire::MEDIUM_BLOB
        | wire::LONG_BLOB
        | wire::BLOB
        | wire::GEOMETRY => column.meta = u16::from(meta.u8()?),
        wire::VARCHAR | wire::VAR_STRING | wire::BIT => column.meta = meta.le(2)? as u16,
        wire::NEWDECIMAL | wire::ENUM | wire::SET => column.meta = meta.be(2)? as u16,
        wire::STRING => {
            // Two bits of the length hide in the type's byte, inverted.
            let (high, low) = (meta.u8()?, meta.u8()?);
            column.wire = high | 0x30;
            column.meta = if high & 0x30 == 0x30 {
                u16::from(low)
            } else {
                u16::from(low) | u16::from((high & 0x30) ^ 0x30) << 4
            };
            if !matches!(column.wire, wire::STRING | wire::ENUM | wire::SET) {
                return Err(Damage("a string column has an unknown real type"));
            }
        }
        _ => return Err(UNKNOWN_TYPE),
    }
    Ok(column)
}

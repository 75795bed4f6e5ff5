//! Reading rows of tables and views by keys, and the keys that a track's query gives.

use tidelock_core::{
    CopyTable, DataType, Error, Finding, Key, Piece, QueryColumn, Result, TrackQuery, Value,
};

use super::MySqlCopier;

fn missing<T>() -> Result<T> {
    Err(Error::bug("reading by key is not built for this server yet"))
}

impl MySqlCopier {
    pub(super) async fn by_keys(
        &mut self,
        _wanted: &CopyTable,
        _by: &[String],
        _keys: &[Key],
        _bytes_max: usize,
    ) -> Result<Piece> {
        missing()
    }

    pub(super) async fn tracked(
        &mut self,
        _query: &TrackQuery,
        _values: &[(String, DataType, Vec<Value>)],
    ) -> Result<Vec<Key>> {
        missing()
    }

    pub(crate) async fn described(
        &mut self,
        _query: &TrackQuery,
        _values: &[(String, DataType)],
    ) -> Result<Vec<QueryColumn>> {
        missing()
    }

    pub(crate) async fn explained(
        &mut self,
        _wanted: &CopyTable,
        _by: &[String],
    ) -> Result<Vec<Finding>> {
        missing()
    }
}

//! Values that may be written short, as a text, or long, as a table or a list of either.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_spanned::Spanned;

/// A value in one of its forms. Unlike an untagged enum it keeps the places inside, and says what was expected.
#[derive(Debug)]
pub enum Form<T> {
    /// A text.
    Text(String),
    /// A table.
    Table(T),
    /// Several of either.
    List(Vec<Spanned<Form<T>>>),
}

/// What the forms of a value are.
pub trait Forms {
    /// In words, for errors.
    const EXPECTED: &'static str;
    /// Whether there may be several.
    const LISTS: bool = false;
}

impl<'de, T: Deserialize<'de> + Forms> Deserialize<'de> for Form<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de> + Forms> Visitor<'de> for Either<T> {
            type Value = Form<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::EXPECTED)
            }

            fn visit_str<E>(self, text: &str) -> Result<Form<T>, E> {
                Ok(Form::Text(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Form<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Form::Table)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Form<T>, A::Error> {
                if !T::LISTS {
                    return Err(serde::de::Error::invalid_type(serde::de::Unexpected::Seq, &self));
                }
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Form::List)
            }
        }
        deserializer.deserialize_any(Either(PhantomData))
    }
}

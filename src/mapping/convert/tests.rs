//! Values that fit, and values that do not.

use super::*;
use tidelock_core::{Date, Interval, Repertoire, Time};

#[test]
fn a_clamped_time_ends_where_the_target_ends_whatever_the_zone() {
    let from = DataType::Timestamp { fsp: 6 };
    let narrow = DataType::Instant { fsp: 6, narrow: true };
    let last = 2_147_483_647_999_999;
    for zone in ["America/New_York", "Asia/Shanghai", "UTC"] {
        let zone = TimeZone::get(zone).expect(zone);
        let rule = Rule { policy: OnUnrepresentable::Clamp, zone: Some(zone) };
        for (at, near) in [
            // 2038-01-19, a day and ages beyond, and before 1970.
            (last, None),
            (last + 86_400_000_000, Some(last)),
            (253_402_300_799_999_999, Some(last)),
            (i64::MAX, Some(last)),
            (-86_400_000_000, Some(1_000_000)),
        ] {
            let got = by_rule(&from, &narrow, &rule, Value::Timestamp(Timestamp(at)));
            match (got, near) {
                (Ok(Value::Instant(Instant(got))), Some(near)) => assert_eq!(got, near),
                (Ok(Value::Instant(Instant(got))), None) => assert!(got <= last),
                other => panic!("{other:?}"),
            }
        }
        let civil = DataType::Timestamp { fsp: 0 };
        let from = DataType::Instant { fsp: 6, narrow: false };
        let end = 253_402_300_799_000_000;
        let got = by_rule(&from, &civil, &rule, Value::Instant(Instant(end + 86_400_000_000)));
        assert_eq!(got, Ok(Value::Timestamp(Timestamp(end))));
    }
}

#[test]
fn a_time_beyond_counting_is_for_the_policy_to_judge() {
    let stamp = DataType::Timestamp { fsp: 6 };
    let to =
        Target { data_type: &stamp, nullable: true, same_family: true, json_form: JsonForm::Text };
    let mut rule = Rule::default();
    let far = Value::Foreign("294270-01-01 00:00:00".into());
    assert!(Conversion::new(&stamp, to, &rule).apply(&far).is_err());
    rule.policy = OnUnrepresentable::Null;
    assert_eq!(Conversion::new(&stamp, to, &rule).apply(&far), Ok(Value::Null));
    let zero = Value::Foreign("0000-00-00 00:00:00".into());
    assert_eq!(Conversion::new(&stamp, to, &rule).apply(&zero), Ok(zero.clone()));
}

#[test]
fn a_nul_character_passes_between_servers_that_have_a_place_for_it() {
    let text = DataType::Text {
        chars_max: None,
        bytes_max: None,
        repertoire: Repertoire::Unicode,
        padded: false,
    };
    for same_family in [true, false] {
        let to =
            Target { data_type: &text, nullable: false, same_family, json_form: JsonForm::Text };
        let convert = Conversion::new(&text, to, &Rule::default());
        let value = Value::Text("a\0b".into());
        assert_eq!(convert.apply(&value).is_ok(), same_family);
        assert_eq!(convert.take(value).is_ok(), same_family);
    }
}

const NUMERIC_12_2: DataType = DataType::Decimal { precision: Some(12), scale: Some(2) };

fn convert(from: &DataType, to: &DataType, value: Value) -> Result<Value, Misfit> {
    by_rule(from, to, &Rule::default(), value)
}

fn target(data_type: &DataType) -> Target<'_> {
    Target { data_type, nullable: true, same_family: false, json_form: JsonForm::Exact }
}

fn by_rule(from: &DataType, to: &DataType, rule: &Rule, value: Value) -> Result<Value, Misfit> {
    compatible(from, to, rule).expect("compatible");
    Conversion::new(from, target(to), rule).apply(&value)
}

fn text(chars_max: Option<u64>, padded: bool) -> DataType {
    let repertoire = Repertoire::Unicode;
    DataType::Text { chars_max, bytes_max: None, repertoire, padded }
}

#[test]
fn decimals_are_never_rounded() {
    let any = DataType::Decimal { precision: None, scale: None };
    let dec = |t: &'static str| Value::Decimal(ByteString::from_static(t));
    assert_eq!(convert(&any, &NUMERIC_12_2, dec("1.50")), Ok(dec("1.50")));
    assert_eq!(convert(&any, &NUMERIC_12_2, dec("1.5000")), Ok(dec("1.5000")));
    assert!(convert(&any, &NUMERIC_12_2, dec("1.505")).is_err());
    assert_eq!(convert(&any, &NUMERIC_12_2, dec("9999999999.99")), Ok(dec("9999999999.99")));
    assert!(convert(&any, &NUMERIC_12_2, dec("10000000000")).is_err());
    assert!(convert(&any, &NUMERIC_12_2, dec("NaN")).is_err());
}

#[test]
fn integers_keep_to_the_width_and_sign_of_the_target() {
    let int = |bits, unsigned| DataType::Int { bits, unsigned };
    assert_eq!(
        convert(&int(64, true), &int(64, true), Value::UInt(u64::MAX)),
        Ok(Value::UInt(u64::MAX))
    );
    assert!(convert(&int(64, true), &int(64, false), Value::UInt(u64::MAX)).is_err());
    assert_eq!(
        convert(&int(32, false), &int(24, false), Value::Int(-8_388_608)),
        Ok(Value::Int(-8_388_608))
    );
    assert!(convert(&int(32, false), &int(24, false), Value::Int(8_388_608)).is_err());
    assert!(convert(&int(32, false), &int(8, true), Value::Int(-1)).is_err());
    assert_eq!(convert(&int(8, false), &DataType::Bool, Value::Int(1)), Ok(Value::Bool(true)));
    assert!(convert(&int(8, false), &DataType::Bool, Value::Int(2)).is_err());
}

#[test]
fn text_is_never_cut_and_char_padding_is_dropped() {
    let text = |n, padded| text(Some(n), padded);
    let t = |s: &'static str| Value::Text(ByteString::from_static(s));
    assert_eq!(convert(&text(9, true), &text(3, false), t("ab   ")), Ok(t("ab")));
    assert_eq!(convert(&text(9, false), &text(3, false), t("äöü")), Ok(t("äöü")));
    assert!(convert(&text(9, false), &text(3, false), t("abcd")).is_err());
    assert!(convert(&text(9, false), &text(3, false), t("ab  ")).is_err());
    assert!(convert(&text(9, false), &text(9, true), t("ab  ")).is_err());
    assert_eq!(convert(&text(9, false), &text(9, true), t("  ab")), Ok(t("  ab")));
    assert_eq!(convert(&text(9, true), &text(3, true), t("ab   ")), Ok(t("ab")));
}

#[test]
fn a_float_that_rounds_is_read_and_never_written() {
    let name = "double(8,2)".to_owned();
    let rounded = DataType::RoundedFloat { double: true, name };
    let refused = compatible(&DataType::Float64, &rounded, &Rule::default());
    assert!(refused.is_err_and(|why| why.contains("double(8,2)")));
    assert!(compatible(&rounded, &rounded, &Rule::default()).is_err());
    let number = Value::Float64(1.25);
    assert_eq!(convert(&rounded, &DataType::Float64, number.clone()), Ok(number));
}

#[test]
fn a_double_fits_a_single_float_if_it_reads_like_one() {
    let to_single = |f| convert(&DataType::Float64, &DataType::Float32, Value::Float64(f));
    assert_eq!(to_single(1.1), Ok(Value::Float32(1.1)));
    assert_eq!(to_single(f64::from(1.1f32)), Ok(Value::Float32(1.1)));
    assert!(to_single(1.100_000_001).is_err());
    assert!(to_single(1e300).is_err());
}

#[test]
fn times_keep_their_digits_or_are_refused() {
    let (fine, coarse) = (DataType::Timestamp { fsp: 6 }, DataType::Timestamp { fsp: 3 });
    let at = |micros| Value::Timestamp(Timestamp(micros));
    assert_eq!(convert(&fine, &coarse, at(1_234_000)), Ok(at(1_234_000)));
    assert!(convert(&fine, &coarse, at(1_234_001)).is_err());
    assert!(convert(&fine, &coarse, Value::Timestamp(Timestamp::INFINITY)).is_err());
    let instant = DataType::Instant { fsp: 6, narrow: false };
    assert!(compatible(&fine, &instant, &Rule::default()).is_err());
    let narrow = DataType::Instant { fsp: 6, narrow: true };
    let wide = DataType::Instant { fsp: 6, narrow: false };
    assert!(convert(&wide, &narrow, Value::Instant(Instant(2_147_483_648_000_000))).is_err());
}

#[test]
fn uuids_round_trip_through_text() {
    let text = text(Some(36), false);
    let id = Value::Uuid(*b"0123456789abcdef");
    let there = convert(&DataType::Uuid, &text, id.clone()).unwrap();
    assert_eq!(convert(&text, &DataType::Uuid, there), Ok(id));
}

#[test]
fn unchanged_is_not_null() {
    let int = DataType::Int { bits: 32, unsigned: false };
    let strict =
        Conversion::new(&int, Target { nullable: false, ..target(&int) }, &Rule::default());
    assert_eq!(strict.apply(&Value::Unchanged), Ok(Value::Unchanged));
    assert!(strict.apply(&Value::Null).is_err());
}

#[test]
fn a_policy_says_what_takes_the_place_of_a_value_that_does_not_fit() {
    let with = |policy| Rule { policy, zone: None };
    let any = DataType::Decimal { precision: None, scale: None };
    let dec = |t: &'static str| Value::Decimal(ByteString::from_static(t));
    let null = with(OnUnrepresentable::Null);
    let clamp = with(OnUnrepresentable::Clamp);
    let spell = with(OnUnrepresentable::Text);
    assert_eq!(by_rule(&any, &NUMERIC_12_2, &null, dec("1.505")), Ok(Value::Null));
    assert_eq!(by_rule(&any, &NUMERIC_12_2, &null, dec("1.50")), Ok(dec("1.50")));
    assert_eq!(by_rule(&any, &NUMERIC_12_2, &clamp, dec("1.505")), Ok(dec("1.51")));
    assert!(by_rule(&any, &NUMERIC_12_2, &clamp, dec("NaN")).is_err());
    let (date, zero) = (DataType::Date, Value::Foreign("0000-00-00".into()));
    assert!(by_rule(&date, &date, &clamp, zero.clone()).is_err());
    assert_eq!(by_rule(&date, &date, &null, zero.clone()), Ok(Value::Null));
    assert!(by_rule(&date, &text(None, false), &Rule::default(), zero.clone()).is_err());
    let spelt = by_rule(&date, &text(None, false), &spell, zero);
    assert_eq!(spelt, Ok(Value::Text("0000-00-00".into())));
    assert_eq!(
        by_rule(&date, &text(None, false), &spell, Value::Date(Date::INFINITY)),
        Ok(Value::Text("infinity".into()))
    );
    let undefined = Value::Foreign("bytes without meaning".into());
    assert!(by_rule(&text(None, false), &text(None, false), &spell, undefined).is_err());
    let twice = Value::Json(r#"{"a":1,"a":2}"#.into());
    assert_eq!(by_rule(&DataType::Json, &DataType::Json, &null, twice), Ok(Value::Null));
    let broken = Value::Text("{".into());
    assert_eq!(by_rule(&text(None, false), &DataType::Json, &null, broken), Ok(Value::Null));
    let strict = Target { nullable: false, ..target(&date) };
    assert!(Conversion::new(&date, strict, &null).apply(&Value::Null).is_err());
}

#[test]
fn characters_that_the_target_lacks_are_not_replaced() {
    let limited =
        |repertoire| DataType::Text { chars_max: None, bytes_max: None, repertoire, padded: false };
    let t = |s: &'static str| Value::Text(ByteString::from_static(s));
    let listed = Repertoire::Listed { name: "x".into(), chars: ['a', '中'].into() };
    assert!(convert(&text(None, false), &limited(listed.clone()), t("a中")).is_ok());
    assert!(convert(&text(None, false), &limited(listed), t("b")).is_err());
    assert!(convert(&text(None, false), &limited(Repertoire::Bmp), t("中")).is_ok());
    assert!(convert(&text(None, false), &limited(Repertoire::Bmp), t("😀")).is_err());
    assert!(convert(&text(None, false), &limited(Repertoire::Ascii), t("é")).is_err());
}

#[test]
fn civil_times_and_instants_meet_by_a_named_zone_only() {
    let civil = DataType::Timestamp { fsp: 6 };
    let point = DataType::Instant { fsp: 6, narrow: false };
    let zone = |name: &str| Rule { zone: TimeZone::get(name).ok(), ..Rule::default() };
    let at = |day: (i32, u32, u32), hour: i64| {
        let date = Date::from_ymd(day.0, day.1, day.2).expect("a day");
        Timestamp::new(date, Time(hour * 3_600_000_000)).expect("in range")
    };
    let shanghai = zone("Asia/Shanghai");
    let noon = at((2026, 11, 25), 12);
    let there = by_rule(&civil, &point, &shanghai, Value::Timestamp(noon));
    assert_eq!(there, Ok(Value::Instant(Instant(at((2026, 11, 25), 4).0))));
    let back = by_rule(&point, &civil, &shanghai, there.expect("it fits"));
    assert_eq!(back, Ok(Value::Timestamp(noon)));
    let berlin = zone("Europe/Berlin");
    let left_out = Value::Timestamp(Timestamp(at((2026, 3, 29), 2).0 + 1));
    let twice = Value::Timestamp(Timestamp(at((2026, 10, 25), 2).0 + 1));
    assert!(by_rule(&civil, &point, &berlin, left_out).is_err());
    assert!(by_rule(&civil, &point, &berlin, twice).is_err());
    let summer = by_rule(&civil, &point, &berlin, Value::Timestamp(at((2026, 7, 1), 0)));
    assert_eq!(summer, Ok(Value::Instant(Instant(at((2026, 6, 30), 22).0))));
}

#[test]
fn types_of_one_kind_of_server_keep_their_text_or_their_bytes() {
    let native = |name: &str, modifier| DataType::Native { name: name.into(), modifier };
    let ints = native("integer[]", -1);
    let value = Value::Text("[0:1]={1,NULL}".into());
    assert_eq!(convert(&ints, &ints, value.clone()), Ok(value.clone()));
    assert_eq!(convert(&ints, &text(None, false), value.clone()), Ok(value.clone()));
    assert_eq!(convert(&text(None, false), &ints, value.clone()), Ok(value));
    let rule = Rule::default();
    assert!(compatible(&ints, &native("bigint[]", -1), &rule).is_err());
    let short = native("character varying[]", 7);
    assert!(compatible(&native("character varying[]", -1), &short, &rule).is_err());
    assert!(compatible(&text(None, false), &short, &rule).is_err());
    assert!(compatible(&short, &native("character varying[]", -1), &rule).is_ok());
    let one_byte = native("\"char\"", -1);
    let letter = |t: &'static str| convert(&text(None, false), &one_byte, Value::Text(t.into()));
    assert!(letter("x").is_ok() && letter("").is_ok());
    assert!(letter("xy").is_err() && letter("é").is_err());
    assert!(compatible(&text(None, false), &native("\"char\"[]", -1), &rule).is_err());
    let point = DataType::Opaque { name: "point".into() };
    let bytes = DataType::Bytes { bytes_max: None, fixed: None };
    assert!(compatible(&point, &bytes, &rule).is_ok());
    assert!(compatible(&point, &DataType::Opaque { name: "polygon".into() }, &rule).is_err());
    assert!(compatible(&point, &text(None, false), &rule).is_err());
}

#[test]
fn bits_sets_years_spans_and_addresses_are_held_whole() {
    let t = |s: &'static str| Value::Text(ByteString::from_static(s));
    let bits = |n| DataType::Bits { length: Some(n), varying: false };
    let int = DataType::Int { bits: 32, unsigned: false };
    assert_eq!(convert(&bits(9), &int, t("100000001")), Ok(Value::Int(257)));
    assert_eq!(convert(&int, &bits(9), Value::Int(257)), Ok(t("100000001")));
    assert!(convert(&int, &bits(8), Value::Int(257)).is_err());
    assert_eq!(convert(&bits(1), &DataType::Bool, t("1")), Ok(Value::Bool(true)));
    assert!(compatible(&bits(2), &DataType::Bool, &Rule::default()).is_err());
    assert!(compatible(&bits(2), &bits(3), &Rule::default()).is_err());
    let set =
        |list: &[&str]| DataType::Set { labels: list.iter().map(|l| (*l).to_owned()).collect() };
    assert_eq!(convert(&set(&["a", "b"]), &set(&["b", "a"]), t("a,b")), Ok(t("b,a")));
    assert!(convert(&set(&["a", "b"]), &set(&["a"]), t("a,b")).is_err());
    assert_eq!(convert(&set(&["a"]), &set(&["a"]), t("")), Ok(t("")));
    assert!(convert(&int, &DataType::Year, Value::Int(1900)).is_err());
    assert_eq!(convert(&DataType::Year, &int, Value::Int(0)), Ok(Value::Int(0)));
    let (span, clock) =
        (DataType::Time { fsp: 6, span: true }, DataType::Time { fsp: 6, span: false });
    let interval = DataType::Interval { fsp: 6 };
    let long = Value::Time(Time(-3_020_399_000_000));
    assert!(convert(&span, &clock, long.clone()).is_err());
    let there = convert(&span, &interval, long.clone()).expect("it fits");
    assert_eq!(convert(&interval, &span, there), Ok(long));
    let month = Value::Interval(Interval { months: 1, days: 0, micros: 0 });
    assert!(convert(&interval, &span, month).is_err());
    let any = DataType::Address { v4: true, v6: true, network: true };
    let six = DataType::Address { v4: false, v6: true, network: false };
    assert_eq!(convert(&any, &six, t("::1")), Ok(t("::1")));
    assert!(convert(&any, &six, t("10.0.0.1")).is_err());
    assert!(convert(&any, &six, t("fe80::/10")).is_err());
    assert!(convert(&text(None, false), &any, t("10.0.0.0/33")).is_err());
}

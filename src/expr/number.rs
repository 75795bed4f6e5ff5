//! Arithmetic on numbers, and their functions.

use super::cell::Cell;
use super::decimal::Dec;
use super::error::{EvalErrorKind, Fail};
use super::kind::Kind;

/// An operator of arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Add,
    Sub,
    Mul,
    Div,
    Rem,
}

impl Op {
    pub fn sign(self) -> &'static str {
        match self {
            Op::Add => "+",
            Op::Sub => "-",
            Op::Mul => "*",
            Op::Div => "/",
            Op::Rem => "%",
        }
    }
}

type Out<'a> = Result<Cell<'a>, Fail>;

pub fn zero() -> Fail {
    Fail::new(EvalErrorKind::DivisionByZero, "division by zero")
}

/// An integer within its type.
pub fn fit(kind: Kind, value: Option<i64>) -> Result<i64, Fail> {
    let (low, high) = match kind {
        Kind::Int2 => (i64::from(i16::MIN), i64::from(i16::MAX)),
        Kind::Int4 => (i64::from(i32::MIN), i64::from(i32::MAX)),
        _ => (i64::MIN, i64::MAX),
    };
    value
        .filter(|v| (low..=high).contains(v))
        .ok_or_else(|| Fail::range(format!("{kind} out of range")))
}

/// Both sides are numbers; `kind` is the type of the result.
pub fn arithmetic<'a>(op: Op, kind: Kind, a: &Cell<'_>, b: &Cell<'_>) -> Out<'a> {
    match kind {
        Kind::Int2 | Kind::Int4 | Kind::Int8 => {
            let (Cell::Int(a), Cell::Int(b)) = (a, b) else { return Err(Fail::unexpected()) };
            let result = match op {
                Op::Add => a.checked_add(*b),
                Op::Sub => a.checked_sub(*b),
                Op::Mul => a.checked_mul(*b),
                Op::Div if *b == 0 => return Err(zero()),
                Op::Rem if *b == 0 => return Err(zero()),
                Op::Div => a.checked_div(*b),
                Op::Rem => Some(a.checked_rem(*b).unwrap_or(0)),
            };
            fit(kind, result).map(Cell::Int)
        }
        Kind::Numeric => {
            let converted = (own(a)?, own(b)?);
            let (a, b) = (borrowed(a, &converted.0)?, borrowed(b, &converted.1)?);
            Ok(Cell::Dec(match op {
                Op::Add => a.add(b)?,
                Op::Sub => a.sub(b)?,
                Op::Mul => a.mul(b)?,
                Op::Div => a.div(b)?,
                Op::Rem => a.rem(b)?,
            }))
        }
        _ => {
            let (Some(a), Some(b)) = (a.double(), b.double()) else {
                return Err(Fail::unexpected());
            };
            if kind == Kind::Real {
                return real(op, a as f32, b as f32).map(Cell::Real);
            }
            let result = match op {
                Op::Add => a + b,
                Op::Sub => a - b,
                Op::Mul => a * b,
                Op::Div | Op::Rem if b == 0.0 && !a.is_nan() => return Err(zero()),
                Op::Div => a / b,
                Op::Rem => a % b,
            };
            let vanished = result == 0.0
                && match op {
                    Op::Mul => a != 0.0 && b != 0.0,
                    Op::Div => a != 0.0 && b.is_finite(),
                    Op::Add | Op::Sub | Op::Rem => false,
                };
            float(result, a.is_infinite() || b.is_infinite(), vanished).map(Cell::Double)
        }
    }
}

fn own(cell: &Cell<'_>) -> Result<Option<Dec>, Fail> {
    match cell {
        Cell::Dec(_) => Ok(None),
        Cell::Int(i) => Ok(Some(Dec::from(*i))),
        _ => Err(Fail::unexpected()),
    }
}

fn borrowed<'d>(cell: &'d Cell<'_>, converted: &'d Option<Dec>) -> Result<&'d Dec, Fail> {
    match (cell, converted) {
        (Cell::Dec(d), _) => Ok(d),
        (_, Some(d)) => Ok(d),
        _ => Err(Fail::unexpected()),
    }
}

fn real(op: Op, a: f32, b: f32) -> Result<f32, Fail> {
    let result = match op {
        Op::Add => a + b,
        Op::Sub => a - b,
        Op::Mul => a * b,
        Op::Div | Op::Rem if b == 0.0 && !a.is_nan() => return Err(zero()),
        Op::Div => a / b,
        Op::Rem => a % b,
    };
    let vanished = result == 0.0
        && match op {
            Op::Mul => a != 0.0 && b != 0.0,
            Op::Div => a != 0.0 && b.is_finite(),
            Op::Add | Op::Sub | Op::Rem => false,
        };
    float(f64::from(result), a.is_infinite() || b.is_infinite(), vanished)?;
    Ok(result)
}

/// A float that neither grew beyond its type nor vanished.
fn float(result: f64, from_infinite: bool, vanished: bool) -> Result<f64, Fail> {
    if result.is_infinite() && !from_infinite {
        return Err(Fail::range("value out of range: overflow"));
    }
    if vanished {
        return Err(Fail::range("value out of range: underflow"));
    }
    Ok(result)
}

pub fn negate<'a>(kind: Kind, cell: Cell<'_>) -> Out<'a> {
    Ok(match cell {
        Cell::Int(i) => Cell::Int(fit(kind, i.checked_neg())?),
        Cell::Dec(d) => Cell::Dec(d.negated()),
        Cell::Real(f) => Cell::Real(-f),
        Cell::Double(f) => Cell::Double(-f),
        _ => return Err(Fail::unexpected()),
    })
}

fn one_dec(args: &mut [Cell<'_>]) -> Result<Dec, Fail> {
    args.first().and_then(Cell::dec).ok_or_else(Fail::unexpected)
}

fn one_double(args: &mut [Cell<'_>]) -> Result<f64, Fail> {
    args.first().and_then(Cell::double).ok_or_else(Fail::unexpected)
}

fn places(args: &mut [Cell<'_>]) -> Result<i64, Fail> {
    match args.get(1) {
        Some(Cell::Int(n)) => Ok(*n),
        _ => Err(Fail::unexpected()),
    }
}

pub fn abs_int2<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    abs_int(args, Kind::Int2)
}

pub fn abs_int4<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    abs_int(args, Kind::Int4)
}

pub fn abs_int8<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    abs_int(args, Kind::Int8)
}

fn abs_int<'a>(args: &mut [Cell<'a>], kind: Kind) -> Out<'a> {
    let [Cell::Int(i)] = args else { return Err(Fail::unexpected()) };
    fit(kind, i.checked_abs()).map(Cell::Int)
}

pub fn abs<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    Ok(match args {
        [Cell::Real(f)] => Cell::Real(f.abs()),
        [Cell::Double(f)] => Cell::Double(f.abs()),
        _ => Cell::Dec(one_dec(args)?.abs()),
    })
}

pub fn round<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    Ok(Cell::Dec(one_dec(args)?.round(0)?))
}

pub fn round_to<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    Ok(Cell::Dec(one_dec(args)?.round(places(args)?)?))
}

/// Half to even, as PostgreSQL rounds floats.
pub fn round_double<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    Ok(Cell::Double(one_double(args)?.round_ties_even()))
}

pub fn trunc<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    Ok(Cell::Dec(one_dec(args)?.trunc(0)?))
}

pub fn trunc_to<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    Ok(Cell::Dec(one_dec(args)?.trunc(places(args)?)?))
}

pub fn trunc_double<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    Ok(Cell::Double(one_double(args)?.trunc()))
}

pub fn ceil<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    Ok(Cell::Dec(one_dec(args)?.ceil()?))
}

pub fn ceil_double<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    Ok(Cell::Double(one_double(args)?.ceil()))
}

pub fn floor<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    Ok(Cell::Dec(one_dec(args)?.floor()?))
}

pub fn floor_double<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    Ok(Cell::Double(one_double(args)?.floor()))
}

pub fn sign<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    Ok(Cell::Dec(match one_dec(args)? {
        Dec::NaN => Dec::NaN,
        other => Dec::from(i64::from(other.signum())),
    }))
}

pub fn sign_double<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    let f = one_double(args)?;
    Ok(Cell::Double(if f > 0.0 {
        1.0
    } else if f < 0.0 {
        -1.0
    } else {
        0.0
    }))
}

pub fn sqrt<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    let d = one_dec(args)?;
    if d.signum() < 0 {
        return Err(Fail::argument("no square root of a negative number"));
    }
    Ok(Cell::Dec(d.sqrt()?))
}

pub fn sqrt_double<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    let f = one_double(args)?;
    if f < 0.0 {
        return Err(Fail::argument("no square root of a negative number"));
    }
    Ok(Cell::Double(f.sqrt()))
}

pub fn power<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    let (Some(a), Some(b)) = (one_double(args).ok(), args.get(1).and_then(Cell::double)) else {
        return Err(Fail::unexpected());
    };
    if a == 0.0 && b < 0.0 {
        return Err(Fail::argument("zero raised to a negative power is undefined"));
    }
    if a < 0.0 && b.is_finite() && b.fract() != 0.0 {
        return Err(Fail::argument("a negative number raised to a non-integer power is complex"));
    }
    let result = a.powf(b);
    let infinite = a.is_infinite() || b.is_infinite();
    float(result, infinite, result == 0.0 && a != 0.0 && !infinite).map(Cell::Double)
}

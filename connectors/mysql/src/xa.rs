//! Transactions that were prepared (XA) and are not decided. Only a person can do that, once whoever prepared them is gone.

use tidelock_core::Result;

use crate::session::Session;

/// A prepared transaction as the server lists it: format, lengths and bytes of its name.
pub(crate) type Xid = (i64, u32, u32, Vec<u8>);

/// As many as are named.
const NAMED: usize = 3;

/// All of them. MySQL tells them only with XA_RECOVER_ADMIN.
pub(crate) async fn prepared(session: &mut Session) -> Result<Vec<Xid>> {
    session.query("XA RECOVER").await
}

/// How many there are and, of some, the name to be decided by.
pub(crate) fn told<'a>(xids: impl IntoIterator<Item = &'a Xid>) -> String {
    let mut names: Vec<String> = xids.into_iter().map(name).collect();
    names.sort();
    let (count, s) = (names.len(), if names.len() == 1 { "" } else { "s" });
    let more = if count > NAMED { ", …" } else { "" };
    names.truncate(NAMED);
    format!("{count} prepared transaction{s} (XA RECOVER): {}{more}", names.join("; "))
}

/// As `XA COMMIT` takes it.
fn name((format, global, branch, bytes): &Xid) -> String {
    let hex = |part: &[u8]| part.iter().map(|b| format!("{b:02X}")).collect::<String>();
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b" .,:;-_/+=".contains(b);
    let literal = |part: &[u8]| match part.iter().all(plain) {
        true => format!("'{}'", String::from_utf8_lossy(part)),
        false => format!("X'{}'", hex(part)),
    };
    let (first, rest) = bytes.split_at(bytes.len().min(*global as usize));
    let second = rest.get(..*branch as usize).unwrap_or(rest);
    match (second, format) {
        ([], 1) => literal(first),
        (_, 1) => format!("{},{}", literal(first), literal(second)),
        _ => format!("{},{},{format}", literal(first), literal(second)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_decides_it() {
        let of = |format, global: &[u8], branch: &[u8]| {
            let (a, b) = (global.len() as u32, branch.len() as u32);
            name(&(format, a, b, [global, branch].concat()))
        };
        assert_eq!(of(1, b"x", b""), "'x'");
        assert_eq!(of(1, b"x", b"y"), "'x','y'");
        assert_eq!(of(7, b"it's", b""), "X'69742773','',7");
        assert_eq!(name(&(1, 9, 9, b"short".to_vec())), "'short'");
        let all = [b"d", b"c", b"b", b"a"].map(|n| (1, 1, 0, n.to_vec()));
        assert_eq!(told(&all), "4 prepared transactions (XA RECOVER): 'a'; 'b'; 'c', …");
        assert_eq!(told(&all[..1]), "1 prepared transaction (XA RECOVER): 'd'");
    }
}

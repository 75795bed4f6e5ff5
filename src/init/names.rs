//! How alike two names are that people of two systems gave to one thing.

/// Words that mean the same to people of different systems.
const ALIKE: &[&[&str]] = &[
    &[
        "customer",
        "client",
        "party",
        "partner",
        "account",
        "organisation",
        "organization",
        "company",
        "person",
    ],
    &["order", "sale", "contract"],
    &["product", "item", "article"],
    &["invoice", "bill"],
    &["id", "no", "nr", "num", "number", "key"],
    &["code", "ref", "reference", "sku"],
    &["phone", "telephone", "tel"],
    &["mail", "email"],
    &["qty", "quantity"],
    &["price", "amount", "total", "sum"],
    &["name", "title", "label"],
    &["note", "remark", "comment", "memo", "term"],
    &["created", "create", "entered"],
    &["state", "status"],
    &["line", "row", "position"],
    &["discount", "rebate"],
];

/// Words that say nothing of a column.
const EMPTY: &[&str] = &["is", "has", "at", "on", "date", "the", "of"];

/// The words of a name, each in the singular, none twice.
pub fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    let mut before = None::<char>;
    for sign in name.chars() {
        let begins = sign.is_uppercase() && before.is_some_and(char::is_lowercase);
        if begins || !sign.is_alphanumeric() {
            push(&mut words, std::mem::take(&mut word));
        }
        if sign.is_alphanumeric() {
            word.extend(sign.to_lowercase());
        }
        before = Some(sign);
    }
    push(&mut words, word);
    words
}

fn push(words: &mut Vec<String>, word: String) {
    let word = singular(word);
    if !word.is_empty() && !words.contains(&word) {
        words.push(word);
    }
}

fn singular(word: String) -> String {
    if let Some(stem) = word.strip_suffix("ies").filter(|stem| stem.len() > 2) {
        return format!("{stem}y");
    }
    if let Some(stem) = word.strip_suffix("sses").or_else(|| word.strip_suffix("xes")) {
        return format!("{stem}{}", if word.ends_with("xes") { "x" } else { "ss" });
    }
    match word.strip_suffix('s') {
        Some(stem) if stem.len() > 2 && !stem.ends_with(['s', 'u', 'i']) => stem.to_owned(),
        _ => word,
    }
}

fn meaning(word: &str) -> &str {
    ALIKE
        .iter()
        .find(|group| group.contains(&word))
        .and_then(|group| group.first())
        .map_or(word, |first| first)
}

/// From 0 to 1: how likely two names, as their words, mean one thing; `about` are words of the tables that the names belong
/// to, which may stand in one of them and not in the other.
pub fn likeness(a: &[String], b: &[String], about: &[String]) -> f64 {
    if a == b {
        return 1.0;
    }
    let told = |words: &[String]| -> Vec<String> {
        let told: Vec<String> = words
            .iter()
            .filter(|w| !about.contains(w) && !EMPTY.contains(&w.as_str()))
            .cloned()
            .collect();
        if told.is_empty() { words.to_vec() } else { told }
    };
    let (a, b) = (told(a), told(b));
    if same(&a, &b) {
        return 0.95;
    }
    let meant =
        |words: &[String]| -> Vec<String> { words.iter().map(|w| meaning(w).to_owned()).collect() };
    let (one, other) = (meant(&a), meant(&b));
    if same(&one, &other) {
        return 0.85;
    }
    let within = |few: &[String], many: &[String]| few.iter().all(|w| many.contains(w));
    if within(&one, &other) || within(&other, &one) {
        let (few, many) = (one.len().min(other.len()), one.len().max(other.len()));
        return 0.6 + 0.3 * few as f64 / many as f64;
    }
    match strsim::jaro_winkler(&a.concat(), &b.concat()) {
        near if near > 0.92 => 0.75,
        _ => 0.0,
    }
}

fn same(a: &[String], b: &[String]) -> bool {
    a.len() == b.len() && a.iter().all(|word| b.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_for_one_as_people_would() {
        let like = |a: &str, b: &str, about: &str| likeness(&words(a), &words(b), &words(about));
        assert_eq!(like("orders", "Order", ""), 1.0);
        assert_eq!(like("party_party", "party", ""), 1.0);
        assert_eq!(words("OrderLines"), ["order", "line"]);
        assert_eq!(words("countries"), ["country"]);
        assert_eq!(words("status"), ["status"]);
        assert_eq!(like("customer_name", "name", "customer"), 0.95);
        assert_eq!(like("is_vip", "vip", ""), 0.95);
        assert_eq!(like("customer_no", "id", "customer"), 0.85);
        assert_eq!(like("quantity", "qty", ""), 0.85);
        assert!(like("sale_contract", "contract", "") > 0.5);
        assert!(like("email", "phone", "") < 0.5);
    }
}

//! The example of two companies' schemas, run as it stands: writes on both sides, kills, deletes, renames, codes that are used again;
//! each target table in the end is what a query over the source says, which is written apart from the views.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::daemon::{Daemon, command};
use super::rows::equal;
use super::snapshot::Side;
use super::{SOON, soaking};

const CONFIG: &str = include_str!("../../examples/company/tidelock.toml");
const ERP: &str = include_str!("../../examples/company/schema-erp.sql");
const CRM: &str = include_str!("../../examples/company/schema-crm.sql");

/// What the CRM must show of the ERP: a query there, and one here.
const TO_CRM: &[(&str, &str)] = &[
    (
        "SELECT p.id, p.code, left(p.name, 100), a.street, a.zip, coalesce(a.city, ''), \
         left(coalesce((SELECT name FROM country WHERE id = a.country), ''), 40), \
         (SELECT value FROM party_contact_mechanism m WHERE m.party = p.id AND type = 'website' \
          AND slot = (SELECT min(slot) FROM party_contact_mechanism n WHERE n.party = p.id AND n.type = 'website')) \
         FROM party p LEFT JOIN party_address a ON a.id = (SELECT (array_agg(x.id ORDER BY coalesce(x.sequence, -1), x.id))[1] \
           FROM party_address x WHERE x.party = p.id AND x.active) \
         WHERE p.active AND p.customer ORDER BY p.id",
        "SELECT party_id, code, name, street, zip, city, country, website FROM account WHERE is_deleted = 0 ORDER BY party_id",
    ),
    (
        "SELECT id, party, array_to_string(ARRAY[street, nullif(array_to_string(ARRAY[zip, city], ' '), '')], ', ') \
         FROM party_address WHERE active ORDER BY id",
        "SELECT id, party_id, line FROM account_address ORDER BY id",
    ),
    (
        "SELECT p.id, p.code, p.name || ' [' || p.code || ']', count(a.id) FROM party p \
         LEFT JOIN party_address a ON a.party = p.id AND a.active WHERE p.active AND p.supplier GROUP BY p.id ORDER BY p.id",
        "SELECT o.party_id, o.code, e.title, o.sites FROM organisation o JOIN entity e ON e.id = o.entity_id ORDER BY o.party_id",
    ),
    (
        "SELECT v.id, v.code, (SELECT name FROM product_template WHERE id = v.template) || ' [' || v.code || ']', \
         (SELECT symbol FROM product_uom WHERE id = (SELECT uom FROM product_template WHERE id = v.template)), \
         (SELECT round(price, 2) FROM product_list_price WHERE template = v.template AND company = 1) \
         FROM product_variant v WHERE active ORDER BY id",
        "SELECT variant_id, code, title, unit, unit_price FROM product WHERE is_active = 1 ORDER BY variant_id",
    ),
    (
        "SELECT v.id, (SELECT sum(quantity)::numeric(14, 3) FROM stock_move WHERE product = v.id AND state = 'done') FROM product_variant v \
         WHERE EXISTS (SELECT 1 FROM stock_move WHERE product = v.id AND state = 'done') ORDER BY id",
        "SELECT variant_id, quantity FROM product_stock ORDER BY variant_id",
    ),
    (
        "SELECT s.id, s.number, s.party, (SELECT code FROM currency WHERE id = s.currency), \
         CASE s.state || '/' || s.invoice_state || '/' || s.shipment_state WHEN 'draft/none/none' THEN 'created' \
         WHEN 'quotation/none/none' THEN 'issued' WHEN 'processing/waiting/sent' THEN 'shipped' WHEN 'processing/paid/waiting' THEN 'paid' \
         WHEN 'done/paid/sent' THEN 'closed' WHEN 'cancelled/none/none' THEN 'rejected' ELSE 'accepted' END, s.sale_date, s.total \
         FROM sale s WHERE number IS NOT NULL AND party IN (SELECT id FROM party WHERE customer) ORDER BY id",
        "SELECT id, number, party_id, currency, status, issued_on, total FROM sales_order ORDER BY id",
    ),
    (
        "SELECT l.id, l.sale, (SELECT count(*) FROM sale_line x WHERE x.sale = l.sale \
           AND (coalesce(x.sequence, -1), x.id) <= (coalesce(l.sequence, -1), l.id)), \
         l.product, coalesce(l.quantity, 0)::numeric(14, 3), round(coalesce(l.unit_price, 0), 2) \
         FROM sale_line l WHERE type = 'line' AND sale IN (SELECT s.id FROM sale s, party p WHERE p.id = s.party AND p.customer AND s.number IS NOT NULL) \
         ORDER BY id",
        "SELECT id, order_id, position, product_id, quantity, unit_price FROM order_line ORDER BY id",
    ),
];

/// What the ERP must show of the CRM: a query there, and one here.
const TO_ERP: &[(&str, &str)] = &[
    (
        "SELECT party_id, 'email', lower(trim(email)) FROM account WHERE trim(coalesce(email, '')) <> '' UNION ALL \
         SELECT party_id, 'phone', replace(replace(phone, ' ', ''), '-', '') FROM account WHERE trim(coalesce(phone, '')) <> '' ORDER BY 1, 2",
        "SELECT party, type, value FROM party_contact_mechanism WHERE slot = 0 ORDER BY 1, 2",
    ),
    (
        "SELECT o.id, (SELECT party_id FROM account a WHERE a.id = o.account_id), o.title, \
         CASE WHEN phase = 'Forthcoming' THEN 'lead' WHEN phase IN ('In progress', 'Under negotiation') THEN 'opportunity' \
         WHEN phase = 'Won' THEN 'converted' ELSE 'lost' END, CAST(estimated AS decimal(16, 2)), CAST(chance / 100 AS decimal(5, 4)) \
         FROM opportunity o ORDER BY id",
        "SELECT crm_number, party, description, state, amount, probability FROM sale_opportunity WHERE active ORDER BY crm_number",
    ),
];

/// Parties with odd numbers may be deleted for good; the CRM writes to those with even ones.
const PARTIES: i32 = 40;
const STATES: &[(&str, &str, &str)] = &[
    ("draft", "none", "none"),
    ("quotation", "none", "none"),
    ("confirmed", "none", "none"),
    ("processing", "waiting", "waiting"),
    ("processing", "waiting", "sent"),
    ("processing", "paid", "waiting"),
    ("done", "paid", "sent"),
    ("cancelled", "none", "none"),
];

/// One or several statements of the ERP's people, as a transaction. What it refuses (a code that is taken) is no matter.
fn at_erp(random: &mut StdRng) -> String {
    let party = random.random_range(1..=PARTIES);
    let id = random.random_range(1..=80);
    let (sale, product, few) =
        (random.random_range(1..=30), random.random_range(1..=12), random.random_range(1..=4));
    let code = random.random_range(1..=20);
    match random.random_range(0..34) {
        0..3 => format!(
            "INSERT INTO party VALUES ({party}, 'P{code}', 'party {party}', true, {}, {}) ON CONFLICT DO NOTHING",
            few > 1,
            few > 2
        ),
        3 => format!("UPDATE party SET name = 'renamed {id}', modified = now() WHERE id = {party}"),
        4 => format!("UPDATE party SET active = NOT active, code = 'P{code}' WHERE id = {party}"),
        5 => format!("UPDATE party SET customer = NOT customer WHERE id = {party}"),
        6 => format!("UPDATE party SET supplier = NOT supplier WHERE id = {party}"),
        7 => {
            format!(
                "DELETE FROM party WHERE id = {party} AND id % 2 = 1 AND NOT EXISTS (SELECT 1 FROM sale WHERE party = {party}) AND NOT EXISTS (SELECT 1 FROM party_contact_mechanism WHERE party = {party})"
            )
        }
        // Gone and there again in one transaction.
        8 => format!(
            "DELETE FROM party_address WHERE id = {id}; INSERT INTO party_address SELECT {id}, id, {few}, NULL, 'Z{code}', 'city {id}', {few} FROM party WHERE id = {party}"
        ),
        9..12 => format!(
            "INSERT INTO party_address SELECT {id}, id, NULL, 'street {id}', NULL, 'city', {few} FROM party WHERE id = {party} ON CONFLICT DO NOTHING"
        ),
        12 => format!(
            "UPDATE party_address SET party = {party} WHERE id = {id} AND EXISTS (SELECT 1 FROM party WHERE id = {party})"
        ),
        13 => format!(
            "UPDATE party_address SET active = NOT active, sequence = {few} WHERE id = {id}"
        ),
        14 => format!("DELETE FROM party_address WHERE id = {id}"),
        15 => format!("UPDATE country SET name = 'land {id}' WHERE id = {few}"),
        16 | 17 => format!(
            "INSERT INTO party_contact_mechanism (party, type, slot, value) SELECT id, 'website', {few}, 'https://{id}.example' FROM party \
             WHERE id = {party} ON CONFLICT (party, type, slot) DO UPDATE SET value = EXCLUDED.value"
        ),
        18 => format!("DELETE FROM party_contact_mechanism WHERE party = {party} AND slot = {few}"),
        19 => format!(
            "UPDATE product_variant SET active = NOT active, code = 'C{code}' WHERE id = {product}"
        ),
        20 => format!(
            "UPDATE product_template SET name = 'template {id}', uom = {} WHERE id = {few}",
            1 + few % 2
        ),
        21 => format!(
            "INSERT INTO product_list_price VALUES ({few}, {}, {id}.0{code}5) ON CONFLICT (template, company) DO UPDATE SET price = EXCLUDED.price",
            1 + id % 2
        ),
        22 => format!("DELETE FROM product_list_price WHERE template = {few} AND company = 1"),
        23 => format!(
            "INSERT INTO stock_move VALUES ({id}, {product}, {few}.5, 'draft') ON CONFLICT DO NOTHING; \
             UPDATE stock_move SET state = 'done' WHERE id = {id}"
        ),
        24 => {
            format!("UPDATE stock_move SET product = {product}, quantity = -{few} WHERE id = {id}")
        }
        25 => format!("DELETE FROM stock_move WHERE id = {id}"),
        26 | 27 => format!(
            "INSERT INTO sale (id, party, currency) SELECT {sale}, id, {} FROM party WHERE id = {party} ON CONFLICT DO NOTHING; \
             INSERT INTO sale_line SELECT {id}, {sale}, NULL, 'line', {product}, 1.5, 9.9950 WHERE EXISTS (SELECT 1 FROM sale WHERE id = {sale}) ON CONFLICT DO NOTHING",
            1 + few % 3
        ),
        28 => format!(
            "UPDATE sale SET number = 'S' || id, total = {id}.25, sale_date = date '2026-01-01' + {id}, print_cache = repeat(md5(id::text), 200) WHERE id = {sale}"
        ),
        29 => {
            let (state, invoice, shipment) = STATES[random.random_range(0..STATES.len())];
            format!(
                "UPDATE sale SET state = '{state}', invoice_state = '{invoice}', shipment_state = '{shipment}' WHERE id = {sale}"
            )
        }
        30 => format!(
            "UPDATE sale_line SET sale = {sale}, sequence = {few}, type = '{}' WHERE id = {id} AND EXISTS (SELECT 1 FROM sale WHERE id = {sale})",
            if few == 1 { "comment" } else { "line" }
        ),
        31 => format!("DELETE FROM sale_line WHERE id = {id}"),
        32 => format!(
            "UPDATE currency SET code = 'X{:02}' WHERE id = {}",
            id % 50 + few * 50 % 50,
            1 + few % 3
        ),
        _ => format!("DELETE FROM sale WHERE id = {sale}"),
    }
}

/// A statement of the CRM's people.
fn at_crm(random: &mut StdRng) -> String {
    let party = random.random_range(1..=PARTIES / 2) * 2;
    let number = random.random_range(100..999);
    let phases = ["Forthcoming", "In progress", "Under negotiation", "Won", "Lost", "Abandoned"];
    let phase = phases[random.random_range(0..phases.len())];
    let some = random.random_range(1..60);
    match random.random_range(0..10) {
        0 | 1 => {
            format!("UPDATE account SET phone = '+49 {number}-{some}' WHERE party_id = {party}")
        }
        2 => format!(
            "UPDATE account SET phone = NULL, email = ' Info@{number}.Example' WHERE party_id = {party}"
        ),
        3 => format!("UPDATE account SET email = '' WHERE party_id = {party}"),
        4..7 => format!(
            "INSERT INTO opportunity (account_id, title, phase, estimated, chance) SELECT id, 'opportunity {number}', '{phase}', {number}, {} \
             FROM account WHERE party_id = {party}",
            number % 101
        ),
        7 => format!("UPDATE opportunity SET phase = '{phase}', chance = NULL WHERE id = {some}"),
        8 => format!(
            "UPDATE opportunity SET account_id = (SELECT id FROM account WHERE party_id = {party}) WHERE id = {some} \
             AND EXISTS (SELECT 1 FROM account WHERE party_id = {party})"
        ),
        _ => format!("DELETE FROM opportunity WHERE id = {some}"),
    }
}

/// Runs a transaction; answers whether the server took it.
async fn tried(side: &Side, sql: &str) -> bool {
    match side {
        Side::Pg(server) => server.sql("db", &format!("BEGIN; {sql}; COMMIT")).await.is_ok(),
        Side::My(server) => server.sql("db", sql).await.is_ok(),
    }
}

async fn as_told(daemon: &Daemon, erp: &Side, crm: &Side) {
    for (source, target) in TO_CRM {
        equal(daemon, (erp, source), (crm, target)).await;
    }
    for (source, target) in TO_ERP {
        equal(daemon, (crm, source), (erp, target)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_companies_schemas_are_kept_in_step_in_both_directions() {
    let (erp, crm) = (Side::new(true).await, Side::new(false).await);
    erp.sql(ERP).await;
    // What the command line client takes for itself.
    crm.sql(&CRM.replace("DELIMITER //\n", "").replace("DELIMITER ;\n", "").replace("//\n", ";\n"))
        .await;
    for n in 1..=4 {
        erp.sql(&format!("INSERT INTO country VALUES ({n}, 'C{n}', 'country {n}'); INSERT INTO currency VALUES ({n}, 'CU{n}'); INSERT INTO product_uom VALUES ({n}, 'unit {n}'); INSERT INTO product_template VALUES ({n}, 'template {n}', 1)")).await;
    }
    for n in 1..=12 {
        erp.sql(&format!("INSERT INTO product_variant VALUES ({n}, {}, 'V{n}')", 1 + n % 4)).await;
    }
    let seed: u64 = std::env::var("TIDELOCK_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| rand::rng().random());
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut done = 0;
    for _ in 0..200 {
        done += u32::from(tried(&erp, &at_erp(&mut random)).await);
    }
    let folder = tempfile::tempdir().expect("folder");
    let text = CONFIG
        .replace("tidelock-state", &folder.path().display().to_string())
        .replace("{ env = \"ERP_URL\" }", &format!("{:?}", erp.url()))
        .replace("{ env = \"CRM_URL\" }", &format!("{:?}", crm.url()));
    let config = folder.path().join("tidelock.toml");
    std::fs::write(&config, &text).expect("config");
    let (code, said) = command(&config, &["check"]);
    assert_eq!(code, 0, "{said}");
    // These servers are made to be thrown away, and are told so; the example itself is clean.
    assert!(!said.contains("warning: mapping"), "{said}");
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    as_told(&daemon, &erp, &crm).await;
    for round in 0..if soaking() { 60 } else { 6 } {
        let (mut here, mut there) =
            (StdRng::seed_from_u64(random.random()), StdRng::seed_from_u64(random.random()));
        let mut people = async |kill: bool, daemon: &mut Daemon| {
            let erp_work = async {
                let mut done = 0;
                for _ in 0..100 {
                    done += u32::from(tried(&erp, &at_erp(&mut here)).await);
                }
                done
            };
            let crm_work = async {
                let mut done = 0;
                for _ in 0..60 {
                    done += u32::from(tried(&crm, &at_crm(&mut there)).await);
                }
                done
            };
            let kills = async {
                if kill {
                    tokio::time::sleep(std::time::Duration::from_millis(150)).await;
                    daemon.kill_and_start();
                }
            };
            let (erp_done, crm_done, ()) = tokio::join!(erp_work, crm_work, kills);
            erp_done + crm_done
        };
        done += people(round % 2 == 1, &mut daemon).await;
        as_told(&daemon, &erp, &crm).await;
    }
    println!("{done} transactions");
    // What a person spoils is mended by a resync of each direction.
    crm.sql("UPDATE sales_order SET number = 'spoilt'").await;
    crm.sql("DELETE FROM order_line").await;
    crm.sql("UPDATE organisation SET code = 'spoilt'").await;
    erp.sql("UPDATE sale_opportunity SET description = 'spoilt'").await;
    erp.sql("DELETE FROM party_contact_mechanism WHERE slot = 0").await;
    for flow in ["erp:crm", "crm:erp"] {
        let (code, said) = daemon.command(&["resync", flow]);
        assert_eq!(code, 0, "{said}");
    }
    as_told(&daemon, &erp, &crm).await;
    // No entity without its organisation, and no account that is neither shown nor marked.
    let lost = "SELECT count(*) FROM entity WHERE id NOT IN (SELECT entity_id FROM organisation)";
    assert_eq!(crm.one(lost).await, "0");
    let all_stream = |flow: &serde_json::Value| {
        flow["mappings"].as_array().is_some_and(|all| all.iter().all(|m| m["state"] == "streaming"))
    };
    daemon.wait("all mappings stream", SOON, |flows| flows.iter().all(all_stream)).await;
    daemon.stop();
}

//! The final comparison: every mapped table, row by row, in the databases' own words.

use std::collections::BTreeSet;

use tidelock_core::Result;

use super::{World, trouble};

/// One mapped pair of tables.
struct Pair {
    name: &'static str,
    erp: &'static str,
    crm: &'static str,
}

const PAIRS: &[Pair] = &[
    Pair {
        name: "customers",
        erp: "SELECT customer_no, name, email, city, country_code, is_vip::int, extract(epoch FROM date_trunc('second', since))::bigint || to_char(since, '.US'), remarks FROM customer",
        crm: "SELECT id, name, email, city, country, vip, CAST(UNIX_TIMESTAMP(created_at) AS DECIMAL(20,6)), remarks FROM customer",
    },
    Pair {
        name: "orders",
        erp: "SELECT id, contract_no, customer_no, state, to_char(signed_at, 'YYYY-MM-DD HH24:MI:SS.US'), deliver_by, amount, terms, extract(epoch FROM date_trunc('second', entered_at))::bigint || to_char(entered_at, '.US') FROM sale.contract",
        crm: "SELECT id, order_no, customer_id, status, DATE_FORMAT(ordered_at, '%Y-%m-%d %H:%i:%s.%f'), wanted_on, total, note, CAST(UNIX_TIMESTAMP(entered_at) AS DECIMAL(20,6)) FROM orders",
    },
    Pair {
        name: "order lines",
        erp: "SELECT contract_id, line_no, product_sku, quantity, price, rebate_pct FROM sale.contract_line",
        crm: "SELECT order_id, line_no, sku, qty, unit_price, discount_pct FROM order_line",
    },
    Pair {
        name: "products",
        erp: "SELECT sku, name, list_price, active::int, attributes FROM product",
        crm: "SELECT sku, title, price, active, attributes FROM product",
    },
    Pair {
        name: "stock",
        erp: "SELECT sku, on_hand, counted_on FROM stock",
        crm: "SELECT sku, available, counted_on FROM stock",
    },
    Pair {
        name: "shipments",
        erp: "SELECT shipment_no, contract_no, carrier_code, tracking_code, state, extract(epoch FROM date_trunc('second', shipped_at))::bigint || to_char(shipped_at, '.US'), weight_kg FROM sale.shipment",
        crm: "SELECT id, order_no, carrier, tracking, state, CAST(UNIX_TIMESTAMP(shipped_at) AS DECIMAL(20,6)), weight_kg FROM shipment",
    },
    Pair {
        name: "notes (both ways)",
        erp: "SELECT origin, note_no, customer_no, body, extract(epoch FROM date_trunc('second', written_at))::bigint || to_char(written_at, '.US') FROM customer_note",
        crm: "SELECT origin, note_no, customer_no, body, CAST(UNIX_TIMESTAMP(written_at) AS DECIMAL(20,6)) FROM customer_note",
    },
    Pair {
        name: "carriers",
        erp: "SELECT code, name, express::int FROM ref.carrier",
        crm: "SELECT code, name, express FROM carrier",
    },
];

/// How one pair of tables compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// Which.
    pub name: &'static str,
    /// Rows in the ERP.
    pub erp_rows: usize,
    /// Rows in the CRM.
    pub crm_rows: usize,
    /// Rows that only one side has in this form.
    pub different: usize,
}

/// Compares every pair.
pub async fn compare(world: &World) -> Result<Vec<Compared>> {
    let mut all = Vec::new();
    for pair in PAIRS {
        let erp = world.erp.rows("erp", pair.erp).await.map_err(trouble)?;
        let crm = world.crm.rows("crm", pair.crm).await.map_err(trouble)?;
        let (erp_rows, crm_rows) = (erp.len(), crm.len());
        let erp: BTreeSet<_> = erp.into_iter().collect();
        let crm: BTreeSet<_> = crm.into_iter().collect();
        let different = erp.symmetric_difference(&crm).count();
        all.push(Compared { name: pair.name, erp_rows, crm_rows, different });
    }
    Ok(all)
}

/// Whether nothing differs.
pub fn agree(compared: &[Compared]) -> bool {
    compared.iter().all(|c| c.different == 0 && c.erp_rows == c.crm_rows)
}

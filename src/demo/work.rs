//! People at work: orders in the CRM, products, stock and shipments in the ERP.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidelock_core::Result;
use tidelock_scratch::mysql_async::prelude::Queryable;
use tidelock_scratch::{mysql_async, tokio_postgres};

use super::{World, trouble};

/// Products that orders are about.
const PRODUCTS: i64 = 200;
const STATES: [&str; 4] = ["draft", "confirmed", "delivered", "closed"];

/// Fills the ERP's master data: one transaction.
pub async fn master_data(world: &World) -> Result<()> {
    let sql = format!(
        "BEGIN;
         INSERT INTO ref.carrier VALUES ('DHL', 'DHL Paket', false), ('UPS', 'UPS Express', true);
         INSERT INTO ref.payment_term VALUES ('N30', 30, 0), ('N10', 10, 2.00);
         INSERT INTO product SELECT 'P-' || n, 'Product ' || n || ' – größe ' || n % 7, n * 1.37, n * 0.9, n % 9 <> 0, \
             jsonb_build_object('color', 'blue', 'weight', n) FROM generate_series(1, {PRODUCTS}) n;
         INSERT INTO stock SELECT 'P-' || n, n * 10, DATE '2026-01-01' + n::int FROM generate_series(1, {PRODUCTS}) n;
         COMMIT"
    );
    world.erp.sql("erp", &sql).await.map_err(trouble)
}

/// Somebody who takes orders in the CRM.
pub struct Sales {
    conn: mysql_async::Conn,
    random: StdRng,
    first: i64,
    last_order: i64,
    last_customer: i64,
}

impl Sales {
    /// Begins work; what happens follows from the seed.
    pub async fn begin(world: &World, seed: u64) -> Result<Sales> {
        let conn = world.crm.conn("crm").await.map_err(trouble)?;
        Ok(Sales {
            conn,
            random: StdRng::seed_from_u64(seed),
            first: 0,
            last_order: 0,
            last_customer: 0,
        })
    }

    /// Numbers from here on, so that two people do not use the same.
    pub fn go_on_from(&mut self, number: i64) {
        self.first = number;
        self.last_order = number;
        self.last_customer = number;
    }

    /// One transaction: a new customer, a new order with lines, a change of an old one, a note.
    pub async fn transaction(&mut self) -> Result<()> {
        let statements = self.statements();
        for statement in statements {
            self.conn.query_drop(statement).await.map_err(trouble)?;
        }
        Ok(())
    }

    fn statements(&mut self) -> Vec<String> {
        let dice = self.random.random_range(0..10);
        let mut sql = vec!["BEGIN".to_owned()];
        if self.last_customer == self.first || dice == 0 {
            self.last_customer += 1;
            let n = self.last_customer;
            sql.push(format!(
                "INSERT INTO customer (id, name, email, city, country, vip) VALUES ({n}, 'Müller & Söhne {n}', 'c{n}@example.com', 'Köln', 'DE', {})",
                n % 2
            ));
        }
        if self.last_order == self.first || dice < 5 {
            self.last_order += 1;
            let n = self.last_order;
            let customer = self.random.random_range(self.first + 1..=self.last_customer);
            sql.push(format!(
                "INSERT INTO orders (id, order_no, customer_id, status, ordered_at, wanted_on, total, note) \
                 VALUES ({n}, 'O-{n}', {customer}, 'draft', NOW(6), CURRENT_DATE + INTERVAL 7 DAY, 0, NULL)"
            ));
            for line in 1..=self.random.random_range(1..5) {
                let (sku, qty) =
                    (self.random.random_range(1..=PRODUCTS), self.random.random_range(1..500));
                sql.push(format!("INSERT INTO order_line VALUES ({n}, {line}, 'P-{sku}', {qty}.5, {qty}.99, 2.50)"));
            }
        } else {
            let n = self.random.random_range(self.first + 1..=self.last_order);
            let state = STATES[self.random.random_range(0..STATES.len())];
            let total = self.random.random_range(0..1_000_000);
            sql.push(format!("UPDATE orders SET status = '{state}', total = {total} / 100, note = 'seen {total}' WHERE id = {n}"));
            if dice == 9 {
                sql.push(format!("DELETE FROM order_line WHERE order_id = {n} AND line_no = 4"));
            }
        }
        if dice == 7 {
            let n = self.random.random_range(1..1_000_000_000i64);
            sql.push(format!("INSERT IGNORE INTO customer_note (origin, note_no, customer_no, body) VALUES ('crm', {n}, 1, 'called; 😀 {n}')"));
        }
        sql.push("COMMIT".to_owned());
        sql
    }
}

/// Somebody who ships in the ERP.
pub struct Warehouse {
    client: tokio_postgres::Client,
    random: StdRng,
    first: i64,
    last_shipment: i64,
}

impl Warehouse {
    /// Begins work; what happens follows from the seed.
    pub async fn begin(world: &World, seed: u64) -> Result<Warehouse> {
        let client = world.erp.client("erp").await.map_err(trouble)?;
        Ok(Warehouse { client, random: StdRng::seed_from_u64(seed), first: 0, last_shipment: 0 })
    }

    /// Numbers from here on, so that two people do not use the same.
    pub fn go_on_from(&mut self, number: i64) {
        self.first = number;
        self.last_shipment = number;
    }

    /// One transaction: stock moves, a shipment comes or goes on, a price changes, a note.
    pub async fn transaction(&mut self) -> Result<()> {
        let dice = self.random.random_range(0..10);
        let sku = self.random.random_range(1..=PRODUCTS);
        let mut sql =
            format!("BEGIN; UPDATE stock SET on_hand = on_hand - 0.125 WHERE sku = 'P-{sku}';");
        if self.last_shipment == self.first || dice < 4 {
            self.last_shipment += 1;
            let n = self.last_shipment;
            sql.push_str(&format!("INSERT INTO sale.shipment VALUES ({n}, 'O-{n}', 'DHL', NULL, 'packed', NULL, 1.250);"));
        } else if dice < 8 {
            let n = self.random.random_range(self.first + 1..=self.last_shipment);
            sql.push_str(&format!(
                "UPDATE sale.shipment SET state = 'shipped', shipped_at = clock_timestamp(), tracking_code = 'T{n}' WHERE shipment_no = {n};"
            ));
        } else if dice == 8 {
            let price = self.random.random_range(100..100_000);
            sql.push_str(&format!(
                "UPDATE product SET list_price = {price} / 100.0 WHERE sku = 'P-{sku}';"
            ));
        } else {
            let n = self.random.random_range(1..1_000_000_000i64);
            sql.push_str(&format!(
                "INSERT INTO customer_note VALUES ('erp', {n}, 1, 'shipped; ok ✓ {n}', clock_timestamp()) ON CONFLICT DO NOTHING;"
            ));
        }
        sql.push_str("COMMIT");
        self.client.batch_execute(&sql).await.map_err(trouble)
    }
}

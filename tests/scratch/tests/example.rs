//! The schemas of the example load into the servers that the demo starts, and take the rows they were made for.

use tidelock_scratch::{Mysql, Postgres, Result};

#[tokio::test]
async fn the_example_loads_and_takes_rows() -> Result<()> {
    let (erp, crm) = tokio::try_join!(Postgres::start(), Mysql::start())?;
    erp.create_database("erp").await?;
    crm.create_database("crm").await?;
    erp.sql("erp", include_str!("../../../examples/erp-crm/erp.sql")).await?;
    crm.sql("crm", include_str!("../../../examples/erp-crm/crm.sql")).await?;

    let order = "
        INSERT INTO customer (id, name, email, city, country, vip, remarks) VALUES (1, 'Zoë', NULL, 'Köln', 'DE', 1, '');
        INSERT INTO orders VALUES (1, 'O-1', 1, 'confirmed', '2026-01-02 03:04:05.000006', '2026-02-03', 12.50, NULL, NOW(6));
        INSERT INTO order_line VALUES (1, 1, 'A-1', 2.500, 5.00, 0.00);
        INSERT INTO shipment VALUES (1, 'O-1', 'DHL', 'X1', 'packed', NOW(6), 1.250);
        INSERT INTO customer_note VALUES ('crm', 1, 1, 'called', NOW(6));
        INSERT INTO product VALUES ('A-1', 'Anchor', 5.00, 1, '{\"colour\": \"red\"}', 0);
        INSERT INTO stock VALUES ('A-1', 10.000, '2026-01-01');
        INSERT INTO carrier VALUES ('DHL', 'DHL', 1);
        INSERT INTO payment_term VALUES ('30D', 30, 2.00)";
    crm.sql("crm", order).await?;
    let contract = "
        INSERT INTO public.customer VALUES (1, 'Zoë', NULL, 'Köln', 'DE', true, now(), '');
        INSERT INTO sale.contract VALUES (1, 'O-1', 1, 'confirmed', '2026-01-02 03:04:05.000006', '2026-02-03', 12.50, NULL, now());
        INSERT INTO sale.contract_line VALUES (1, 1, 'A-1', 2.500, 5.00, 0.00);
        INSERT INTO sale.shipment VALUES (1, 'O-1', 'DHL', 'X1', 'packed', now(), 1.250);
        INSERT INTO public.customer_note VALUES ('erp', 1, 1, 'called', now());
        INSERT INTO public.product VALUES ('A-1', 'Anchor', 5.00, 3.00, true, '{\"colour\": \"red\"}');
        INSERT INTO public.stock VALUES ('A-1', 10.000, '2026-01-01');
        INSERT INTO ref.carrier VALUES ('DHL', 'DHL', true);
        INSERT INTO ref.payment_term VALUES ('30D', 30, 2.00)";
    erp.sql("erp", contract).await?;
    assert_eq!(crm.one("crm", "SELECT total FROM orders").await?, "12.50");
    assert_eq!(erp.one("erp", "SELECT amount FROM sale.contract").await?, "12.50");
    Ok(())
}

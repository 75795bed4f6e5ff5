-- The ERP: PostgreSQL. Load into an empty database: psql -d erp -f erp.sql
-- Columns that no mapping names (purchase_price, invoiced, ...) are the ERP's own business and stay untouched.

CREATE SCHEMA sale;
CREATE SCHEMA ref;

-- Small tables that both sides use under the same names; mapped by one wildcard.
CREATE TABLE ref.carrier (
    code       varchar(16)  PRIMARY KEY,
    name       varchar(100) NOT NULL,
    express    boolean      NOT NULL DEFAULT false
);
CREATE TABLE ref.payment_term (
    code       varchar(16)  PRIMARY KEY,
    days       integer      NOT NULL,
    discount   numeric(5,2) NOT NULL DEFAULT 0
);
CREATE TABLE ref.tmp_import (   -- excluded by the mapping
    id         bigint       PRIMARY KEY,
    line       text
);

-- Made in the CRM.
CREATE TABLE public.customer (
    customer_no  bigint       PRIMARY KEY,
    name         varchar(200) NOT NULL,
    email        varchar(200),
    city         varchar(100),
    country_code varchar(2)   NOT NULL,
    is_vip       boolean      NOT NULL,
    since        timestamptz  NOT NULL,
    remarks      text,
    credit_limit numeric(12,2) NOT NULL DEFAULT 0
);

-- Made here, sold there.
CREATE TABLE public.product (
    sku            varchar(32)   PRIMARY KEY,
    name           varchar(200)  NOT NULL,
    list_price     numeric(12,2) NOT NULL,
    purchase_price numeric(12,2),
    active         boolean       NOT NULL DEFAULT true,
    attributes     jsonb
);
CREATE TABLE public.stock (
    sku            varchar(32)   PRIMARY KEY REFERENCES public.product,
    on_hand        numeric(14,3) NOT NULL,
    counted_on     date
);

-- An order of the CRM is a contract here.
CREATE TABLE sale.contract (
    id           bigint        PRIMARY KEY,
    contract_no  varchar(32)   NOT NULL UNIQUE,
    customer_no  bigint        NOT NULL REFERENCES public.customer,
    state        varchar(20)   NOT NULL,
    signed_at    timestamp(6)  NOT NULL,   -- the salesman's wall clock, without zone
    deliver_by   date,
    amount       numeric(12,2) NOT NULL,
    terms        text,
    entered_at   timestamptz   NOT NULL,   -- a point in time
    invoiced     boolean       NOT NULL DEFAULT false
);
CREATE TABLE sale.contract_line (
    contract_id  bigint        NOT NULL REFERENCES sale.contract,
    line_no      integer       NOT NULL,
    product_sku  varchar(32)   NOT NULL,
    quantity     numeric(12,3) NOT NULL,
    price        numeric(12,2) NOT NULL,
    rebate_pct   numeric(5,2)  NOT NULL,
    PRIMARY KEY (contract_id, line_no)
);

-- Made here, shown there.
CREATE TYPE sale.shipment_state AS ENUM ('packed', 'shipped', 'delivered', 'returned');
CREATE TABLE sale.shipment (
    shipment_no   bigint              PRIMARY KEY,
    contract_no   varchar(32)         NOT NULL,
    carrier_code  varchar(16),
    tracking_code varchar(64),
    state         sale.shipment_state NOT NULL,
    shipped_at    timestamptz,
    weight_kg     numeric(8,3),
    warehouse     varchar(16)         NOT NULL DEFAULT 'MAIN'
);

-- Written on both sides: the origin is part of the key, so the two never write the same row.
CREATE TABLE public.customer_note (
    origin       varchar(8)    NOT NULL,
    note_no      bigint        NOT NULL,
    customer_no  bigint        NOT NULL,
    body         varchar(2000) NOT NULL,
    written_at   timestamptz   NOT NULL,
    PRIMARY KEY (origin, note_no)
);

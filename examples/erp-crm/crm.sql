-- The CRM: MariaDB. Load into an empty database: mariadb crm < crm.sql

CREATE TABLE carrier (
    code       varchar(16)  NOT NULL PRIMARY KEY,
    name       varchar(100) NOT NULL,
    express    tinyint(1)   NOT NULL DEFAULT 0
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE payment_term (
    code       varchar(16)  NOT NULL PRIMARY KEY,
    days       int          NOT NULL,
    discount   decimal(5,2) NOT NULL DEFAULT 0
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE customer (
    id         bigint       NOT NULL PRIMARY KEY,
    name       varchar(200) NOT NULL,
    email      varchar(200) NULL,
    city       varchar(100) NULL,
    country    varchar(2)   NOT NULL,
    vip        tinyint(1)   NOT NULL DEFAULT 0,
    created_at timestamp(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    remarks    text         NULL,
    salesman   varchar(50)  NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- Made in the ERP.
CREATE TABLE product (
    sku        varchar(32)   NOT NULL PRIMARY KEY,
    title      varchar(200)  NOT NULL,
    price      decimal(12,2) NOT NULL,
    active     tinyint(1)    NOT NULL,
    attributes json          NULL,
    hits       int           NOT NULL DEFAULT 0
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE stock (
    sku        varchar(32)   NOT NULL PRIMARY KEY,
    available  decimal(14,3) NOT NULL,
    counted_on date          NULL,
    CONSTRAINT stock_product FOREIGN KEY (sku) REFERENCES product (sku)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE orders (
    id          bigint        NOT NULL PRIMARY KEY,
    order_no    varchar(32)   NOT NULL UNIQUE,
    customer_id bigint        NOT NULL,
    status      varchar(20)   NOT NULL,
    ordered_at  datetime(6)   NOT NULL,
    wanted_on   date          NULL,
    total       decimal(12,2) NOT NULL,
    note        text          NULL,
    entered_at  timestamp(6)  NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    CONSTRAINT orders_customer FOREIGN KEY (customer_id) REFERENCES customer (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
-- No ON DELETE CASCADE: what InnoDB deletes by itself is not in the binlog, so nobody could follow it.
CREATE TABLE order_line (
    order_id     bigint        NOT NULL,
    line_no      int           NOT NULL,
    sku          varchar(32)   NOT NULL,
    qty          decimal(12,3) NOT NULL,
    unit_price   decimal(12,2) NOT NULL,
    discount_pct decimal(5,2)  NOT NULL DEFAULT 0,
    PRIMARY KEY (order_id, line_no),
    CONSTRAINT order_line_order FOREIGN KEY (order_id) REFERENCES orders (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- Made in the ERP.
CREATE TABLE shipment (
    id         bigint       NOT NULL PRIMARY KEY,
    order_no   varchar(32)  NOT NULL,
    carrier    varchar(16)  NULL,
    tracking   varchar(64)  NULL,
    state      enum('packed', 'shipped', 'delivered', 'returned') NOT NULL,
    shipped_at timestamp(6) NULL,
    weight_kg  decimal(8,3) NULL,
    KEY shipment_order (order_no)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- Written on both sides.
CREATE TABLE customer_note (
    origin      varchar(8)    NOT NULL,
    note_no     bigint        NOT NULL,
    customer_no bigint        NOT NULL,
    body        varchar(2000) NOT NULL,
    written_at  timestamp(6)  NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    PRIMARY KEY (origin, note_no)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

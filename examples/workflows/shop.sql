-- The tables of the order workflow.
CREATE TABLE stock (item text PRIMARY KEY, available integer NOT NULL CHECK (available >= 0));
CREATE TABLE shipment (order_id integer NOT NULL, charge integer NOT NULL, approved_by text);

-- Lets a role see the history of one installation, or of all. Run it as the role that owns the tables:
-- the one in the DSN of the first telemetryd that wrote. Create the role before.
--
--   psql -v role=reports -v installation='*' -f access.sql DSN
--   psql -v role=customer -v installation=7f2c7d1e-0d9d-4c3f-8a0e-0d3b0b6f0f11 -f access.sql DSN
--
-- With -v writes=1 the role may also write: for the daemon of another installation.
\set ON_ERROR_STOP on
\if :{?writes} \else \set writes 0 \endif
BEGIN;
GRANT USAGE ON SCHEMA telemetryd TO :"role";
GRANT SELECT ON ALL TABLES IN SCHEMA telemetryd TO :"role";
\if :writes
GRANT INSERT, UPDATE, DELETE ON telemetryd.installations, telemetryd.slots, telemetryd.cells,
  telemetryd.digests, telemetryd.writers TO :"role";
\endif
INSERT INTO telemetryd.access (role, installation) VALUES (:'role', :'installation')
  ON CONFLICT DO NOTHING;
COMMIT;

-- What text search rests on: trigrams, and plain columns beside them in one index. Postgres ships both, and
-- calls them trusted: who may create in the database may create them. Whoever set the database up may have
-- done so before.
create extension if not exists pg_trgm;
create extension if not exists btree_gin;

-- The uid of the tenant of a number: a UUIDv7 of the time it was created. Lives as long as the session.
create or replace function pg_temp.uid_of(seed bigint, number bigint) returns uuid
    language sql immutable parallel safe
    as $$
        select (
            lpad(to_hex((1577836800 + number) * 1000), 12, '0')
            || '7' || substr(digits, 1, 3) || '8' || substr(digits, 4, 15)
        )::uuid
        from md5(seed || ':' || number) as digits
    $$;

-- Chance that repeats: one of so many, for a number and a purpose.
create or replace function pg_temp.pick(seed bigint, number bigint, purpose text, choices bigint) returns bigint
    language sql immutable parallel safe
    as $$ select (hashtextextended(number || purpose, seed) & 2147483647) % choices $$;

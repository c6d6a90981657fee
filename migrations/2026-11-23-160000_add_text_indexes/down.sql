-- Not those of somebody else.
do $$
declare
    extension text;
begin
    for extension in
        select extname from pg_extension
        where extname in ('pg_trgm', 'btree_gin') and extowner = current_user::regrole
    loop
        execute format('drop extension %I', extension);
    end loop;
end
$$;

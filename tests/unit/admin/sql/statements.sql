-- Statements that operators, tools and textbooks ask, one a line; what PostgreSQL says to each is the expectation.
-- pools and clients, as one looks at them
select * from pools order by database, "user"
select database, cl_active, cl_waiting from pools where cl_waiting > 0
select database, sum(cl_active) as clients, sum(sv_active) as servers from pools group by database order by 1
select database, count(*) from pools group by database having count(*) > 1
select p.user, p.maxwait from pools p order by p.maxwait desc, p.user limit 1
select max(maxwait) + max(maxwait_us) / 1e6 as longest_wait from pools
select round(100.0 * sum(cl_waiting) / nullif(sum(cl_active + cl_waiting), 0), 1) as waiting_percent from pools
select database, cl_active::float / sv_active as per_server from pools where sv_active > 0 order by 1, 2
select state, count(*) from clients group by state order by count(*) desc, state
select application_name, count(*) filter (where state = 'waiting') as waiting from clients group by 1 order by 1
select addr, count(distinct application_name) from clients group by addr
select c.id, s.remote_pid from clients c join servers s on c.link = s.ptr
select c.id, s.remote_pid from clients c left join servers s on s.link = c.ptr order by c.id
select id, wait + wait_us / 1000000.0 as waited from clients where state = 'waiting'
select name from databases where paused = 1 order by name
select name, pool_size - current_connections as free from databases order by free desc, name
select d.name, coalesce(sum(p.cl_waiting), 0) from databases d left join pools p on p.database = d.name group by d.name order by 1
select database, total_query_count / nullif(total_xact_count, 0) as queries_per_xact from stats order by 1
select database, pg_size_pretty(total_received) from stats order by 1
select key, value from config where key like 'max%' order by key
select value::int * 2 from config where key = 'max_client_conn'
select list, items from lists where items > 10 order by items desc
select name, max_user_connections from users order by name
select * from waiting
select * from version
select kind, sum(count) from events group by kind
select database, "user" from pools except select database, 'amy' from pools order by 1, 2
select exists(select from pools where cl_waiting > 0) as somebody_waits
select (select count(*) from clients) as clients, (select count(*) from servers) as servers
table state order by key
-- time
select now() - connect_time as age from clients order by id
select id from clients where connect_time < now() - interval '30 seconds' order by id
select id, age(now(), connect_time) from clients order by id
select extract(epoch from now() - connect_time)::int as seconds from clients where id = 1
select extract(epoch from since) from waiting
select date_trunc('minute', since), date_part('second', since) from waiting
select to_char(since, 'YYYY-MM-DD HH24:MI:SS.MS TZ') from waiting
select since at time zone 'UTC' from waiting
select since::date, since::time from waiting
select since + interval '1 day 2 hours' - since from waiting
select justify_hours(interval '30 hours'), interval '1 mon -3 days', interval 'P1DT2H'
select '2 days'::interval * 1.5, interval '1 hour' / 4, -interval '5 min'
select interval '1 day' > interval '23 hours', interval '24 hours' = interval '1 day'
select date '2026-02-28' + 1, date '2026-03-01' - date '2026-02-28'
select timestamp '2026-01-01 12:00' - timestamp '2025-12-31'
select make_interval(mins => 90), make_date(2026, 2, 3)
select to_timestamp(1795334760.25), extract(dow from date '2026-11-22')
select extract(century from timestamptz '2026-11-22 00:00Z'), extract(week from date '2026-11-22')
select '2026-11-22 08:06'::timestamptz between since and now() from waiting
select now() > 'yesterday'::timestamptz is not null
select generate_series(timestamptz '2026-11-22 00:00Z', '2026-11-22 02:00Z', interval '1 hour')
select overlaps.x from (select (date '2026-01-01', date '2026-02-01') overlaps (date '2026-01-15', date '2026-03-01') as x) overlaps
select 'soon'::timestamptz
select '2026-02-30'::date
select interval 'many days'
select now() - name from databases
select now() > interval '1 day'
-- numbers
select 1/0
select 1 % 0
select 1.0 / 0
select 1e0 / 0
select mod(7, 0)
select 7 / 2, -7 / 2, 7 % 3, -7 % 3, 7 / 2.0, 7.0 / 2
select 2 ^ 10, 2 ** 3
select |/ 25, @ -5, 17 & 5, 17 | 5, 17 # 5, ~1, 1 << 4, 16 >> 2
select 2147483647 + 1
select 2147483647::bigint + 1
select 9223372036854775807 + 1
select 9223372036854775808
select 1e400::float8
select 100000::smallint
select 0.1 + 0.2, 0.1::float8 + 0.2::float8, 1::real / 3
select round(2.5), round(3.5), round(-2.5), round(2.5::float8), round(3.5::float8)
select round(1.005, 2), trunc(1.999, 1), ceil(-0.5), floor(-0.5), sign(-3)
select abs(-3), gcd(12, 18), lcm(4, 6), power(2, 0.5), sqrt(2), cbrt(27)
select sqrt(-1)
select ln(0)
select log(100), log(2, 8), exp(1), ln(10)
select width_bucket(5.35, 0.024, 10.06, 5), div(7, 2), scale(1.500)
select greatest(1, null, 3), least(2, 1), coalesce(null, null), nullif(1, 1)
select 'NaN'::numeric = 'NaN'::numeric, 'NaN'::float8 > 1, 'Infinity'::float8
select 1_000, 0x1F, 0b101, 1.5e3, .5
select cast('12' as int) + '30', '12' + 30
select '12abc'::int
select ''::int
select '٣'::int
select ' 42 '::int, '-7'::int8, '1e3'::numeric, '0x10'::int
select '1.5'::int
select 1.5::int, 2.5::int, -1.5::int, 1.5::float8::int, 2.5::float8::int
select true::int, 1::bool, 0::bool, 'yes'::bool, 'off'::bool
select 'maybe'::bool
select 5::bool + 1
select to_char(1234567.891, 'FM9,999,990.00'), to_char(42, '0000'), to_number('1,234.5', '9,999.9')
select count(*), sum(n), avg(n), min(n), max(n), stddev(n), variance(n) from generate_series(1, 10) n
select sum(x), avg(x) from (values (1.5), (null), (2.5)) v(x)
select sum(x) from (values (1)) v(x) where false
select sum('x') from pools
select percentile_cont(0.5) within group (order by cl_active), mode() within group (order by database) from pools
select bool_and(cl_active > 0), bool_or(cl_waiting > 0), every(true) from pools
select bit_or(cl_active), corr(cl_active, cl_waiting) is null from pools
select random() between 0 and 1
-- text
select 'a' || 'b', 'a' || 1, null || 'x', concat('a', null, 1), concat_ws('-', 'a', null, 'b')
select 1 || 2
select upper('aé'), lower('ÄÖ'), initcap('the pool of ONE'), length('añb'), octet_length('añb'), reverse('abc')
select substring('pgbouncer' from 3), substring('pgbouncer', 1, 2), substring('a1b2' from '[0-9]'), left('abc', -1), right('abc', 2)
select position('o' in 'pooler'), strpos('pooler', 'x'), overlay('pooler' placing 'XX' from 2), repeat('ab', 3)
select trim('  x '), trim(both 'x' from 'xaxx'), ltrim('xxa', 'x'), rtrim('a--', '-'), btrim('-a-', '-'), lpad('7', 3, '0'), rpad('7', 3, '.')
select split_part('a.b.c', '.', 2), split_part('a.b.c', '.', -1), replace('abc', 'b', 'xx'), translate('abc', 'ab', '12'), chr(65), ascii('A')
select split_part('a', '.', 0)
select chr(0)
select md5('a'), encode('abc'::bytea, 'hex'), encode('abc'::bytea, 'base64'), decode('616263', 'hex'), sha256('a')
select quote_ident('A b'), quote_literal('it''s'), quote_nullable(null), format('%s-%I-%L-%%', 1, 'A', 'x'), format('%2$s %1$s', 'a', 'b')
select format('%s')
select starts_with('pooler', 'po'), 'pooler' ^@ 'po', string_to_array('a,b,,c', ','), string_to_array('a,b', null), array_to_string(array['a', null, 'b'], ',', '*')
select 'abc' like 'a%', 'abc' like '_b_', 'ABC' ilike 'a%', 'a%c' like 'a\%c', 'abc' not like 'x%', 'abc' ~~ 'a%', 'a_c' like 'a!_c' escape '!'
select 'abc' ~ '^a.c$', 'ABC' ~* 'b', 'abc' !~ 'x', 'abc' similar to '(a|x)%', 'foo.bar' ~ '\.', 'a1' ~ '\d$'
select regexp_replace('a1b22', '\d+', '#', 'g'), regexp_matches('a1b22', '\d+', 'g')
select regexp_split_to_array('a, b;c', '[,;]\s*'), regexp_match('key=value', '(\w+)=(\w+)'), regexp_count('banana', 'a')
select 'a' ~ '('
select 'a' ~ '[[:nope:]]'
select 'aab' ~ '(a)\1', 'foobar' ~ 'foo(?=bar)', 'x' ~ '\yx\y'
select 'abc' like 'abc\'
select E'tab\there', U&'\0041', $$it's$$, $x$a$$b$x$, 'a' 'b'
select 'a' < 'B', 'a' < 'b', 'Z' < 'a', '10' < '9', 'é' > 'z'
select cl_active + 'x' from pools
select cl_active = '3', cl_active = 'x' from pools
select database = 5 from pools
select '5' = 5, 5 = '5'
select database + 1 from pools
select not database from pools
select database and true from pools
select 1 = true
select 'a'::text = 1::text, 'a'::name = 'a'::text, 'abc'::char(5) || '|', 'abc'::varchar(2), 'x'::"char"
select name::nosuch from databases
select unistr('\0041'), normalize('a'), string_agg(name, ', ' order by name desc) from databases
select string_agg(distinct database, '|') from pools
select to_hex(255), to_ascii('x', 'latin1')
select lower(1)
select length(5)
-- names, scopes and grouping
select databse from pools
select pools.databse from pools
select p.databse from pools p
select q.database from pools p
select database from pools, stats
select pools.database from pools p
select * from nosuch
select * from nosuch.pools
select * from pool
select nosuch(1)
select lenght('x')
select sum(cl_active, 1) from pools
select count() from pools
select database, sum(cl_active) from pools
select database, cl_active from pools group by database
select database from pools group by 1 order by cl_active
select database from pools where sum(cl_active) > 1
select sum(sum(cl_active)) from pools
select database as d from pools where d = 'shop'
select database as d, count(*) from pools group by d order by d
select database from pools group by 5
select database from pools order by 5
select database from pools having count(*) > 1
select distinct database from pools order by database desc
select distinct on (database) database, "user" from pools order by database, "user" desc
select distinct database from pools order by cl_active
select count(distinct database), count(all database), count(*) from pools
select database, grouping(database), count(*) from pools group by rollup (database) order by 1
select database, "user", count(*) from pools group by grouping sets ((database), ("user"), ()) order by 1, 2
select *, row_number() over w from (select database d, "user" u from pools) p window w as (order by d, u) order by d, u
select database, "user", rank() over (partition by database order by "user"), lag("user") over (order by database, "user") from pools order by 1, 2
select sum(cl_active) over (order by "user" rows between 1 preceding and current row) from pools
select database, first_value("user") over (partition by database order by "user") from pools order by 1, 2
select sum(cl_active) over () from pools where row_number() over () = 1
select ntile(2) over (order by n), percent_rank() over (order by n) from generate_series(1, 4) n
-- shapes of queries
select 1
select
select from pools
select 1 as "one two", 2 "User", 3 three
select 1 a, 2 a
select null, true, 'x', 1.5, 3000000000, array[1, 2], row(1, 'a')
select (1, 'a'), (1, 2) = (1, 2), row(1, 2) < row(1, 3), (null, 1) is null
values (1, 'a'), (2, null)
values (1), ('x')
values (1), (2, 3)
select * from (values (1, 'x'), (2, 'y')) as t(a, b) where a > 1
select 1 union select 2 union all select 2 order by 1
select 1 union select 'x'
select 1, 2 union select 3
select 1 intersect select 1 except select 2
(select 1 as n order by n limit 1) union all (select 2) order by n desc
select * from pools order by nosuch
select n from generate_series(1, 5) n order by n desc limit 2 offset 1
select n from generate_series(1, 5) n fetch first 2 rows only
select n from generate_series(1, 5) n order by n % 2, n fetch first 1 row with ties
select 1 limit -1
select 1 limit 'x'
select generate_series(1, 3)
select generate_series(1, 3), generate_series(1, 2)
select generate_series(1, 0)
select generate_series(1, 3, 0)
select * from generate_series(1, 3) with ordinality as g(n, place)
select unnest(array['b', 'a']), 1
select * from unnest(array[1, 2], array['a']) as t(x, y)
select a, b from unnest('{1,2}'::int[]) a cross join lateral generate_series(1, a) b
with recursive c(n) as (select 1 union all select n + 1 from c where n < 5) select sum(n) from c
with a as (select 1 as x), b as (select x + 1 as y from a) select * from a, b
with x as materialized (select database from pools) select count(*) from x
with x as (select 1) select * from y
with x(a, b) as (select 1) select * from x
select case when cl_waiting > 0 then 'bad' else 'ok' end, case database when 'shop' then 1 end from pools order by 1, 2
select case when 1 then 2 end
select case when true then 1 else 'x' end
select 1 where null
select 1 where 1
select 1 where 'x'
select null = null, null is null, null is distinct from 1, 1 is not distinct from 1, true is unknown, null::bool is not true
select 1 in (1, null), 2 in (1, null), 2 not in (1, null), 1 = any(array[1, 2]), 3 <> all('{1,2}'), 1 > some(select 0)
select 1 in (select 1, 2)
select (select cl_active from pools)
select (select 1, 2)
select 1 between 0 and 2, 1 not between symmetric 3 and 0
select database from pools where (database, "user") in (('shop', 'app'), ('blog', 'zoe')) order by 1
select * from pools p join databases d using (database) where false
select * from databases natural join users where false
select d.name, u.name from databases d full join users u on d.name = u.name order by 1, 2
select 1 from pools join stats on 1
select 1 from pools join stats
select d.name, p.n from databases d cross join lateral (select count(*) n from pools where database = d.name) p order by 1
select p::text from pools p where "user" = 'app'
select (p).database from pools p where p."user" = 'app'
select p.* from pools p where "user" = 'app'
select x.* from pools p
select count(p.*), count(p) from pools p
-- json, arrays and others
select row_to_json(s) from state s order by 1
select to_json(s) from state s order by 1
select json_agg(s order by key) from state s
select json_build_object('n', count(*), 'names', json_agg(name order by name)) from databases
select jsonb_build_object('a', 1, 'b', null), json_build_array(1, 'x', null), jsonb_agg(name order by name), json_object_agg(name, port order by name) from databases
select '{"a": {"b": [1, 2]}}'::jsonb #> '{a,b}', '{"a": 1}'::json ->> 'a', '[1,2]'::jsonb -> -1, '{"a":1}'::jsonb @> '{}', '{"a":1}'::jsonb ? 'a'
select * from json_to_recordset('[{"a":1,"b":"x"}]') as x(a int, b text)
select * from jsonb_each('{"a":1,"b":[2]}') order by key
select jsonb_pretty('{"a":[1]}'), jsonb_array_length('[1,2]'), jsonb_typeof('null')
select '{bad'::json
select array_agg(name order by name), array_length(array[1, 2], 1), array_lower(array[1, 2], 1), cardinality('{}'::int[]), array_position(array['a', 'b'], 'b') from databases
select (array['a', 'b'])[2], ('{x}'::text[])[9], (array[1, 2, 3])[2:3], array[[1, 2], [3, 4]], array(select key from state order by 1)
select array[1, 2] || 3, array[1] && array[1, 2], array[1, 2] @> array[2], array_remove(array[1, 2, 1], 1), array_append('{}', 1)
select array[1, 'x']
select '{1,2'::int[]
select '10.0.0.7'::inet << '10.0.0.0/8', host('10.0.0.7/8'::inet), family('::1'), addr::inet + 1 from clients where id = 1
select 'x'::inet
select 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid, '\x00ff'::bytea, B'101', '[1,3)'::int4range, point(1, 2)
select 'x'::uuid
select current_database(), current_schema, current_catalog
select 'pools'::regclass, 'int4'::regtype, 'text'::regtype::oid, to_regclass('nosuch')
select 'nosuch'::regclass
select pg_typeof(1), pg_typeof(now()), pg_typeof(null), pg_typeof(cl_active), pg_typeof(database) from pools limit 1
select format_type(23, -1), format_type(1043, 14), has_table_privilege('pools', 'select')
select oid, typname from pg_type where typname in ('int4', 'text', 'timestamptz') order by 1
select attname, atttypid from pg_attribute where attrelid = 'state'::regclass and attnum > 0 order by attnum
select nosuchcol from pg_class
select * from pg_nosuch
select * from information_schema.nosuch
select column_name, data_type, is_nullable from information_schema.columns where table_name = 'state' and table_schema = 'public' order by ordinal_position
-- mistakes
select 1 +
select 1 from from pools
select (1
select 1)
select 'abc
select "abc from pools
select $1
select $tag$ x
select 1,
select * frm pools
select from where
select 1 order
select * from pools where
select * from pools limit 1 limit 2
select a b c from pools
select 1 as select
select @@version
select 1 == 1
select `name` from databases
select [name] from databases
select top 1 * from pools
select ifnull(null, 1)
select isnull(null, 1)
select if(true, 1, 2)
select datediff(now(), now())
select getdate()
select sysdate from dual
select nvl(null, 1)
select group_concat(name) from databases
select strftime('%s', 'now')
select json_each('{}')
select name || ' ' || nosuch from databases
select count(*) from pools where database == 'shop'
select * from pools where cl_active > all
select extract(nosuch from now())
select date_trunc('nosuch', now())
select cast(1 as)
select 1::
select interval '1' fortnight

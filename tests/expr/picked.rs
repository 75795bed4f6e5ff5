//! Expressions picked by hand, one a line.

pub const EXPRESSIONS: &str = r#"
-- columns, literals, precedence
i4
n2
c
y
id
e
1
-1
2147483648
-9223372036854775808
99999999999999999999
1.50
1e3
1.5e-3
.5
'text'
'it''s'
E'a\nb\\c'
$$dollar$$
true
NULL
1 + 2 * 3
(1 + 2) * 3
- i4 + 1
-2 * -3
1 - - 1
2 + 3 || 'x'
'a' || 1 + 2
t || u || c
'x' || i4
i4 || 'x'
b || 'x'
n2 || ' EUR'
da || ''
y || y
NOT b AND true
NOT b OR b
NOT i4 = 1
i4 = 1 IS NULL
i4 + 1 BETWEEN 0 AND 10 AND b
i4 BETWEEN 1 AND 2 OR b
i4 NOT BETWEEN 10 AND 1
-- integers
i2 + i2
i2 * i2
i2 - i4
i4 + 1
i4 * 2
i8 + 1
i8 - 1
i8 * 2
- i8
- i2
i4 / 7
i4 / 0
i4 % 7
i4 % 0
i8 / -1
i8 % -1
7 / 2
-7 / 2
-7 % 3
7 % -3
abs(i2)
abs(i4)
abs(i8)
mod(i4, 7)
mod(i8, 10)
mod(n, 3)
-- decimals
n + n2
n - n2
n * n2
n / n2
n2 / 3
n2 / 7.000
1 / 3.0
10.00 / 4
n % 2.5
n2 % 0
n / 0
n2 * 1.19
n2 * i4
n2 + i8
- n
abs(n)
abs(n2)
round(n)
round(n2)
round(n, 2)
round(n2, 1)
round(n2, -2)
round(n, 30)
round(2.5)
round(-2.5)
round(0.5::float8)
round(1.5::float8)
round(i4)
trunc(n)
trunc(n, 1)
trunc(n2, -1)
trunc(d)
ceil(n)
ceiling(n2)
floor(n)
floor(n2)
ceil(d)
floor(d)
ceil(i4)
sign(n)
sign(d)
sign(i4)
sqrt(abs(n2))
sqrt(2)
sqrt(2.0)
sqrt(n2)
sqrt(100.00)
sqrt(0.0001)
power(2, 10)
power(2::float8, 0.5::float8)
power(d, 2::float8)
pow(10, -2)
n > n2
n = n2
n < i4
n2 = 12.5
n2 >= d
greatest(n, n2, i4)
least(n, n2, i4, 0.5)
greatest(i2, i4)
greatest(NULL, i4)
-- floats
d + 1
d * 2
d / 0
d * d
r + r
r * r
r + d
r + i4
r + n2
r = 0.1
d = 0.1
- d
d > r
n2 + d
d::numeric
r::numeric
d::text
r::text
r::float8
n::float8
n::real
i8::float8
i8::real
d::real
d::int
d::bigint
r::int
2.5::float8::int
3.5::float8::int
'1e400'::float8
'1e-400'::float8
'NaN'::float8
'-inf'::float8
' 1.5 '::float8
'abc'::float8
-- casts
i4::smallint
i8::int
i8::smallint
i4::bigint
i4::numeric
i4::numeric(5,2)
n::int
n::bigint
n::smallint
n::numeric(10,2)
n2::numeric(5,1)
n2::numeric(30,10)
n2::int
i4::text
i8::text
n::text
b::text
b::int
i4::boolean
t::int
u::int
u::numeric
u::float8
u::date
u::boolean
'42'::int
' 42 '::int
'4 2'::int
'+5'::int
'99999999999'::int
'1.5'::int
'1.5'::numeric
'1e5'::numeric
'-1.5e-3'::numeric
'NaN'::numeric
'Infinity'::numeric
'1.2.3'::numeric
''::numeric
'yes'::boolean
'f'::boolean
'of'::boolean
'o'::boolean
' TRUE '::boolean
'maybe'::boolean
CAST(i4 AS text)
CAST('1' AS integer)
CAST(n2 AS numeric(4,1))
t::varchar(3)
t::varchar
t::char(3)
'ab  '::char(4) || 'x'
c::text
c || 'x'
length(c)
c = 'ab'
c = 'ab   '
c = u
c = 'ab'::text
c::char(2)
y::text
'\x0aff'::bytea
'a\\b\001'::bytea
'abc'::bytea
t::bytea
'\xzz'::bytea
id::text
'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'::uuid
'{a0eebc999c0b4ef8bb6d6bb9bd380a11}'::uuid
'a0eebc99'::uuid
id = '01010101-0101-0101-0101-010101010101'
id < 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'
e::text
e = 'ok'
e <> 'sad'
e IN ('ok', 'happy')
e IS NULL
-- comparison and three-valued logic
t = u
t <> 'Hello World'
t < 'a'
t > u
t >= 'Z'
b = true
b <> false
b < true
i4 = i2
i4 <> 2
i4 != 2
i4 < NULL
NULL = NULL
i4 = '1'
n2 > '3.5'
da > '2000-01-01'
y = 'abc'
y < '\xff'
NULL AND false
NULL OR true
NULL AND true
b AND NULL
b OR NULL
NOT NULL::boolean
b IS TRUE
b IS NOT TRUE
b IS FALSE
b IS NOT FALSE
b IS UNKNOWN
b IS NOT UNKNOWN
i4 IS NULL
i4 IS NOT NULL
i4 IS DISTINCT FROM 1
i4 IS NOT DISTINCT FROM NULL
t IS DISTINCT FROM u
i4 IN (1, 2, 3)
i4 IN (1, NULL)
i4 NOT IN (1, 2)
i4 NOT IN (1, NULL)
n2 IN (1, 12.50, 19.99)
t IN ('', '1')
u NOT IN ('abc')
i4 IN (i2, i8, 17)
false AND 1 / i4 = 0
CASE WHEN i4 > 0 THEN 'pos' WHEN i4 < 0 THEN 'neg' ELSE 'zero' END
CASE WHEN b THEN i4 END
CASE WHEN b THEN i4 ELSE n2 END
CASE WHEN b THEN 1 ELSE 2.5 END
CASE i4 WHEN 1 THEN 'a' WHEN 2 THEN 'b' ELSE 'c' END
CASE t WHEN '' THEN 'empty' ELSE t END
CASE u WHEN 'abc' THEN 1 WHEN '10' THEN 2 END
CASE WHEN i4 = 0 THEN 0 ELSE 100 / i4 END
CASE WHEN b THEN da ELSE ts END
CASE WHEN b THEN NULL ELSE u END
CASE NULL WHEN NULL THEN 1 ELSE 2 END
coalesce(t, 'none')
coalesce(i4, 0)
coalesce(i4, n2, 0)
coalesce(n2, 0)
coalesce(NULL, NULL)
coalesce(NULL, u, 'x')
coalesce(da, date '2000-01-01')
coalesce(b, false)
coalesce(k, 1 / 0 * k)
nullif(i4, 0)
nullif(t, '')
nullif(n2, 0)
nullif(u, 'abc') || 'x'
100 / nullif(i4, 0)
greatest(t, u)
least(da, date '2000-01-01')
greatest(ts, da)
-- LIKE and patterns
t LIKE 'H%'
t LIKE '%o%o%'
t LIKE '_____ _____'
t LIKE ''
t LIKE 'a\%b%'
t LIKE 'a!%b%' ESCAPE '!'
t LIKE '%\_%'
t LIKE '%\' ESCAPE ''
t NOT LIKE '%a%'
t ILIKE 'hello%'
t NOT ILIKE '%HELLO%'
u LIKE t
t LIKE '%\'
t ~~ 'H%'
t !~~* '%h%'
t ~ '^[A-Z]'
t ~ '[0-9]+'
t ~* 'hello'
t !~ 'o'
t !~* 'O'
t ~ 'l{2}'
t ~ '\d'
t ~ '\mone\M'
t ~ 'W\w+d$'
t ~ 'tab.nl.end'
t ~ '^nl'
t ~ '[[:upper:]]'
t ^@ 'Hello'
starts_with(t, 'one')
regexp_replace(t, 'o', '0')
regexp_replace(t, 'o', '0', 'g')
regexp_replace(t, '(\w)(\w)', '\2\1', 'g')
regexp_replace(t, 'L', '[\&]', 'gi')
regexp_replace(t, '[^0-9]', '', 'g')
regexp_replace(t, '', '-', 'g')
regexp_replace(t, '\s+', ' ', 'g')
substring(t from '[A-Z]\w+')
substring(t from 'o(.)')
substring(t, 'x(y)?')
-- text
upper(t)
lower(t)
initcap(t)
initcap('hello wORLD-foo_bar')
length(t)
length(u)
length(y)
length('')
char_length(t)
character_length(u)
octet_length(t)
octet_length(y)
trim(u)
trim(both 'x' from 'xxabcxx')
trim(leading from u)
trim(trailing ' ' from u)
trim('xy' from 'yxabcyx')
btrim(u)
btrim(t, 'HdeoN')
ltrim(t, 'He')
rtrim(t, 'dl')
ltrim(u)
rtrim(u)
substring(t from 2)
substring(t from 2 for 3)
substring(t for 3)
substring(t, 2)
substring(t, 2, 3)
substring(t, 0, 3)
substring(t, -2, 5)
substring(t, 3, -1)
substring(t, 100)
substr(t, 3)
substr(t, 3, 2)
left(t, 3)
left(t, -3)
left(t, 0)
left(t, 100)
right(t, 3)
right(t, -3)
right(t, 100)
right(t, -100)
replace(t, 'o', '00')
replace(t, '', 'x')
replace(t, 'o', '')
split_part(t, ',', 1)
split_part(t, ',', 3)
split_part(t, ',', 9)
split_part(t, ',', -1)
split_part(t, ',', -9)
split_part(t, ',', 0)
split_part(t, '', 1)
split_part(t, '', 2)
lpad(t, 5)
lpad(u, 8, '0')
lpad(u, 8, 'xyz')
lpad(u, -1)
lpad(u, 8, '')
rpad(u, 8, '.')
rpad(u, 2)
strpos(t, 'o')
strpos(t, '')
strpos(t, 'zz')
position('o' in t)
position('ö' in t)
reverse(t)
repeat(u, 3)
repeat(u, -1)
repeat(u, 0)
translate(t, 'lo', 'L')
translate('12345', '143', 'ax')
overlay(t placing 'XX' from 2)
overlay(t placing 'XX' from 2 for 4)
overlay('abc' placing 'X' from 9)
concat(t, i4, b, NULL, n2)
concat(da)
concat_ws(', ', t, NULL, i4)
concat_ws(NULL, t)
concat_ws(u, 'a', 'b')
ascii(t)
ascii(u)
chr(65)
chr(8364)
chr(0)
chr(i4)
md5(t)
md5(y)
md5('')
encode(sha256(t::bytea), 'hex')
encode(sha256(convert_to(t, 'UTF8')), 'hex')
encode(y, 'hex')
encode(y, 'base64')
encode(convert_to(repeat('abc', 30), 'UTF8'), 'base64')
decode('0aFF', 'hex')
decode('0a F', 'hex')
decode('YWJj', 'base64')
decode('YWJ', 'base64')
convert_from(decode('c3a4', 'hex'), 'UTF8')
convert_from(y, 'UTF8')
to_hex(255)
to_hex(i4)
to_hex(i8)
-- dates and times
date '2024-02-29'
date '2024-02-30'
date '0044-03-15 BC'
'20240229'::date
'infinity'::date
'2024-13-01'::date
'xyz'::date
time '12:34:56.789'
time '24:00:00'
time '25:00'
timestamp '2024-02-29 12:34:56'
timestamp '2024-02-29T12:34'
timestamp '2024-02-29 12:34:56+02'
timestamp with time zone '2024-02-29 12:34:56+02'
timestamptz '2024-02-29 12:34:56 Europe/Berlin'
timestamptz '2024-02-29 12:34:56.1234567Z'
timestamp '2024-02-29 23:59:60'
interval '1 day'
interval '1 year 2 months 3 days 04:05:06.789'
interval '-1 day'
interval '1 day ago'
interval '1.5 days'
interval '1.5 months'
interval '1.5 years'
interval '2 weeks'
interval '90 min'
interval '100 hours'
interval 'P1Y2M3DT4H5M6S'
interval '-3 days 04:00'
interval '3 days -04:00'
interval '5' day
interval '3' hour
interval '10'
interval 'abc'
'1h30m'::interval
da + 1
da - 1
1 + da
da - da
da - date '2000-01-01'
da + interval '1 month'
da - interval '1 day'
da + time '10:00'
da + i2
date '2024-01-31' + interval '1 month'
date '2024-03-31' - interval '1 month'
ts + interval '1 month'
ts - interval '1 year 1 day'
ts + iv
ts - iv
interval '1 day' + ts
tz + interval '1 day'
ts - timestamp '2000-01-01'
ts - ts
tz - ts
ts - da
tz - tz
ti + interval '2 hours'
ti - interval '25 hours'
ti - time '01:00'
iv + iv
iv - interval '1 day'
iv * 2
2 * iv
iv * 1.5
iv / 2
iv / 0
- iv
iv = interval '30 days'
iv > interval '1 day'
iv < interval '1 mon'
ts > da
ts = da
tz > ts
ts < '2000-01-01'
da BETWEEN '2000-01-01' AND '2024-12-31'
da::timestamp
da::timestamptz
ts::date
ts::time
tz::date
tz::timestamp
ts::timestamptz
ts::timestamp(0)
ts::timestamp(3)
tz::timestamptz(1)
ti::time(0)
ti::interval
iv::time
da::text
ts::text
tz::text
iv::text
ti::text
extract(year from da)
extract(month from da)
extract(day from da)
extract(dow from da)
extract(isodow from da)
extract(doy from da)
extract(week from da)
extract(isoyear from da)
extract(quarter from da)
extract(decade from da)
extract(century from da)
extract(millennium from da)
extract(epoch from da)
extract(hour from ts)
extract(minute from ts)
extract(second from ts)
extract(milliseconds from ts)
extract(microseconds from ts)
extract(epoch from ts)
extract(epoch from tz)
extract(year from tz)
extract(timezone from tz)
extract(hour from ti)
extract(second from ti)
extract(epoch from ti)
extract(year from iv)
extract(month from iv)
extract(day from iv)
extract(hour from iv)
extract(second from iv)
extract(epoch from iv)
extract(quarter from iv)
extract(century from iv)
extract('year' from ts)
date_part('year', ts)
date_part('second', ts)
date_part('epoch', da)
date_part('day', iv)
date_trunc('month', ts)
date_trunc('day', tz)
date_trunc('year', da)
date_trunc('week', ts)
date_trunc('quarter', ts)
date_trunc('hour', ts)
date_trunc('minute', ts)
date_trunc('milliseconds', ts)
date_trunc('decade', ts)
date_trunc('century', ts)
date_trunc('millennium', ts)
date_trunc('day', tz, 'Europe/Berlin')
date_trunc('month', tz, 'America/New_York')
date_trunc('hour', iv)
date_trunc('month', iv)
date_trunc('year', iv)
date_trunc('day', timestamptz '2024-03-31 12:00+00', 'Europe/Berlin')
timestamp '2024-07-01 12:00' AT TIME ZONE 'Europe/Berlin'
timestamptz '2024-07-01 12:00+00' AT TIME ZONE 'America/New_York'
timestamp '2024-03-31 02:30' AT TIME ZONE 'Europe/Berlin'
timestamp '2024-10-27 02:30' AT TIME ZONE 'Europe/Berlin'
timezone('Europe/Berlin', timestamp '2024-01-01 00:00')
make_date(2024, 2, 29)
make_date(2023, 2, 29)
make_date(-44, 3, 15)
make_date(i4, 1, 1)
justify_hours(interval '50 hours')
to_timestamp(1700000000.5)
to_timestamp(0)
-- templates
to_char(ts, 'YYYY-MM-DD HH24:MI:SS')
to_char(tz, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
to_char(da, 'DD.MM.YYYY')
to_char(da, 'FMDD. FMMonth YYYY')
to_char(ts, 'Day, DD Month YYYY')
to_char(ts, 'DY dy Dy MON mon Mon MONTH month')
to_char(ts, 'HH12:MI:SS AM')
to_char(ts, 'HH:MI p.m. US')
to_char(ts, 'YY Y YYY Y,YYY CC')
to_char(ts, 'IYYY-IW-ID DDD D Q WW W J')
to_char(ts, 'FMDDth FMMMTH DDth')
to_char(ts, 'SSSS FF3 FF6')
to_char(da, 'YYYY BC')
to_char(tz, 'TZ tz OF')
to_char(ts, 'yyyymmdd hh24miss')
to_char(i4, '999')
to_char(i4, '9999999999999')
to_char(i4, '0000')
to_char(i4, 'FM000000')
to_char(i4, '9,999,999,999')
to_char(i4, 'FM9,999,999,999')
to_char(n2, '999999990.00')
to_char(n2, 'FM9999999990.00')
to_char(n2, 'FM9999999999.99')
to_char(n2, '9999999999.99')
to_char(n2, 'FM9999999990.09')
to_char(n2, '9G999G999G990D00')
to_char(n2, 'S9999999999.99')
to_char(n2, '9999999999.99S')
to_char(n2, '9999999999.99MI')
to_char(n2, '9999999999.99PR')
to_char(n2, 'FM9999999999.99PR')
to_char(n2, '0999999999.9')
to_char(n2, '99.9')
to_char(0.5, '9.99')
to_char(0.5, '0.99')
to_char(0, '9.9')
to_char(0, 'FM9.9')
to_char(-0.5, '99.99')
to_char(12, '99 "pieces"')
to_char(1234.5, '9,999.99')
to_char(-1234.5, '009,999.99')
to_char(nullif(d, 'NaN'), '999.999')
to_date('2024-02-29', 'YYYY-MM-DD')
to_date('29.02.2024', 'DD.MM.YYYY')
to_date('20240229', 'YYYYMMDD')
to_date('5 Mar 2024', 'DD Mon YYYY')
to_date('2024-02-30', 'YYYY-MM-DD')
to_date('March 2024', 'Month YYYY')
to_date('2024 060', 'YYYY DDD')
to_timestamp('2024-02-29 13:14:15', 'YYYY-MM-DD HH24:MI:SS')
to_timestamp('2024-02-29 01:14:15.5 PM', 'YYYY-MM-DD HH12:MI:SS.MS PM')
-- json
j -> 'a'
j ->> 'a'
j -> 'b' -> 'c' -> 0
j -> 'b' -> 'c' ->> 1
j -> 'b' -> 'c' ->> -1
j -> 'b' -> 'c' ->> 2
CASE WHEN jsonb_typeof(j) = 'array' THEN j -> 0 END
j -> 'b' -> 'c' -> -2
CASE WHEN jsonb_typeof(j) = 'array' THEN j ->> -1 END
j ->> 'nope'
j ->> ''
j #> '{b,c}'
j #>> '{b,c,1}'
j #>> '{a}'
j #>> '{}'
(j ->> 'n')::numeric
(j -> 'n')::numeric
(j -> 't')::boolean
j IS NULL
j::text
'{"b": 1, "a": [1,2.0, "x"], "b": 2}'::jsonb
'{"b":1}'::json ->> 'b'
'[1,2'::json
'"\u00e4\n"'::jsonb ->> 'x'
jsonb_typeof(j)
jsonb_typeof(j -> 'b')
jsonb_array_length(j -> 'b' -> 'c')
jsonb_extract_path_text(j, 'b', 'c', '0')
jsonb_build_object('id', i4, 'name', t, 'price', n2, 'ok', b)
jsonb_build_object('at', ts, 'tz', tz, 'day', da, 'doc', j)
json_build_object('id', i4, 'name', u)
jsonb_build_array(i4, t, NULL)
to_jsonb(t)
to_jsonb(n2)
to_json(d)
jsonb_build_object('longer', 1, 'a', 2, 'b', 3, 'a', 4)
-- floats written from their exact binary value
to_char(1.005::float8, 'FM990.00')
to_char(0.125::float8, '0.99')
to_char(2.5::float8, 'FM9')
to_char(0.15::float4, 'FM0.9')
to_char(1234567.125::float8, 'FM9999999.99')
to_char(-0.004::float8, 'FM0.99')
to_char(123456.789::float4, 'FM999999.999')
to_char(1.1::float4, 'FM9.99999999')
to_char(9.995::float8, 'FM99.00')
to_char(1e20::float8, 'FM9')
to_char(12345678901234567::float8, 'FM99999999999999999.99')
to_char(CASE WHEN d < 1e15 AND d > -1e15 THEN d END, 'FM999999999999990.0999')
to_char(CASE WHEN r < 1e15 AND r > -1e15 THEN r END, '999990.99')
to_char(1.005, 'FM990.00')
-- an hour that comes twice
date_trunc('hour', timestamptz '2024-10-27 00:30:00+00', 'Europe/Berlin')
date_trunc('hour', timestamptz '2024-10-27 01:30:00+00', 'Europe/Berlin')
date_trunc('minute', timestamptz '2024-10-27 00:30:30+00', 'Europe/Berlin')
date_trunc('second', timestamptz '2024-10-27 00:30:30.5+00', 'Europe/Berlin')
date_trunc('day', timestamptz '2024-10-27 00:30:30+00', 'Europe/Berlin')
date_trunc('day', timestamptz '2024-10-27 04:30:30+00', 'Europe/Berlin')
date_trunc('hour', timestamptz '2024-03-31 01:30:30.5+00', 'Europe/Berlin')
date_trunc('hour', tz, 'Asia/Kathmandu')
-- spans
interval '1 12:59:10'
interval '-1 12:59:10'
interval '1.5 12:00:00'
interval '1 mon 2 12:00:00'
interval '1 year 1 1:00'
interval '5 00:00:01 ago'
interval '1 2'
interval '1 ago'
interval '1'
interval '1.5' hour
interval '1.5' day
interval '1.5' minute
interval '1.5' month
interval '1.5' year
interval '-1.5' hour
interval '2' hour
interval '1.5' second
justify_hours('1 day -1 hour')
justify_hours('-1 day 1 hour')
justify_hours('-1 day -25 hours')
justify_hours('1 day -25 hours')
justify_hours('-1 mon 2 days -1 hour')
justify_hours(iv)
-- templates
to_char(timestamp '2024-02-29 13:14:15.007', 'IDDD')
to_char(timestamp '2023-01-01', 'IDDD')
to_char(ts, 'IDDD FMIDDD')
to_char(timestamp '2024-02-29 13:14:15.007', 'FMMS FMUS FMFF3')
to_char(ts, 'FMDDD FMSSSS FMQ FMWW FMIW FMHH24 FMMI FMSS FMMS FMUS FMFF2 FMY FMYY FMYYY FMI FMIY FMID FMD FMW')
to_date('29.02.24', 'DD.MM.YY')
to_date('29.02.72', 'DD.MM.YY')
to_date('01.02.2024', 'DD.MM.YY')
to_date('010224', 'DDMMYY')
to_date('01.02.124', 'DD.MM.YY')
to_date('01.02.69', 'DD.MM.YY')
to_date('01.02.70', 'DD.MM.YY')
to_date('24-01-02', 'YYYY-MM-DD')
to_date('240102', 'YYMMDD')
to_date('1.2.524', 'DD.MM.YYY')
to_date('1.2.4', 'DD.MM.Y')
-- reals among decimals
0.1::real IN (0.1, 0.2)
0.1::real IN (0.1)
0.1::real IN (0.1, 1)
0.1::real IN (0.1, 0.2::float8)
0.1::real IN (0.1, n2, 0.3)
0.1::real IN (0.1, n2)
0.1::real NOT IN (0.1, 0.2)
0.1::real IN (0.1, NULL)
0.1::real IN ('0.1', '3')
16777216::real IN (16777217, 1)
r IN (0.1, 1.5, -2)
r IN (0.1, i4, n2)
-- halves before the year 2000
timestamp '1999-12-31 23:59:58.5'::timestamp(0)
(timestamp '1999-12-31 23:59:57.499999')::timestamp(0)
(timestamp '2000-01-01 00:00:00.5')::timestamp(0)
(timestamp '1969-12-31 23:59:58.5')::timestamp(0)
(timestamp '1970-01-01 00:00:00.5')::timestamp(0)
(timestamptz '1980-01-01 00:00:00.5+00')::timestamptz(0)
ts::timestamp(0)
tz::timestamptz(2)
(interval '-0.5 s')::interval(0)
-- patterns
t ~ '[a&&b]'
'&' ~ '^[a&&b]$'
'~' ~ '^[a~~b]$'
'-' ~ '^[+--]$'
'[' ~ '^[[]$'
'a]' ~ '^[[a]]$'
'b' ~ '[a--z]'
'a' ~ '[[:typo:]]'
'٣' ~ '\d'
'٣' ~ '\D'
'ä' ~ '\w'
'_' ~ '\w'
U&'\00A0' ~ '\s'
t ~ '^[\w\s]+$'
t ~ '[^[:alpha:][:space:]]'
regexp_replace(t, '\W+', '-', 'g')
substring('aaabbb' FROM 'a*?b*?')
regexp_replace('foobar', 'o+?', 'x')
'a<b' ~ 'a\<b'
"#;

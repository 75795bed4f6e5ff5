//! Expressions at the edges: characters beyond ASCII, huge and odd numbers, ends of calendars, hours that come twice, one a line.

pub const EXPRESSIONS: &str = r#"
-- characters of three and four bytes, and such as combine
upper('中文ß')
upper('straße')
upper('ŉǰﬁ')
lower('İI')
lower('ΑΣ')
lower('ΣΑΣ')
upper('ς')
upper('ǆ')
lower('ǅ')
initcap('ǆabc ßx')
initcap('中文abc def')
initcap('o''neil 4th éA')
initcap('a😀b')
length('中文')
length('😀')
length(U&'e\0301')
char_length('👨‍👩‍👧')
octet_length('👨‍👩‍👧')
reverse('a中😀b')
reverse(U&'e\0301x')
left('中文字', 2)
left('中文字', -2)
right('a😀b', 2)
right('a😀b', -1)
substring('中文字' from 2 for 1)
substring('😀😁😂' from 0 for 2)
substring('abc' from -2147483648 for 2147483647)
substring('abc' from 2 for 2147483647)
substring('abc' from 2147483647)
lpad('中', 5, '文a')
rpad('😀', 4, '中😁')
lpad('abc', 2, '中')
lpad('abc', 0)
lpad(NULL, 3)
lpad('abc', NULL)
replace('中文中', '中', '😀')
replace('aaa', 'aa', 'b')
replace('abc', 'b', NULL)
split_part('a中b中c', '中', 2)
split_part('a中b中c', '中', -1)
split_part('a,b', ',', -3)
split_part('', ',', 1)
split_part('', ',', -1)
split_part('', '', -1)
split_part('aXXXb', 'XX', 2)
split_part('aXXXb', 'XX', -1)
strpos('a中b', 'b')
strpos('', '')
position('' in '')
position('' in 'abc')
translate('中a文', '中文', 'xy')
translate('abcabc', 'aa', 'xy')
translate('abc', '', 'x')
translate('a😀', '😀', '')
overlay('中文字符' placing 'x' from 2 for 2)
overlay('abc' placing 'X' from 0)
overlay('abc' placing 'X' from 1 for 0)
overlay('abc' placing 'X' from 2 for -1)
overlay('abcdef' placing 'XY' from 3 for -2)
overlay('abc' placing '' from 2 for 1)
repeat('', 1000000)
repeat('a', 2147483647)
ascii('中')
ascii('😀')
ascii('')
chr(128512)
chr(1114112)
chr(55296)
chr(-1)
trim('　x　')
trim(E'\t x \n')
trim('中' from '中x中')
btrim('', 'x')
btrim('xx', 'x')
btrim('abc', '')
ltrim('aabb', 'ab')
rtrim('中中x', 'x中')
md5('中文')
encode(sha256(convert_to('中', 'UTF8')), 'hex')
encode(convert_to('中', 'UTF8'), 'base64')
encode(''::bytea, 'hex')
encode(''::bytea, 'base64')
encode('\x00ff'::bytea, 'base64')
encode(convert_to(repeat('x', 57), 'UTF8'), 'base64')
encode(convert_to(repeat('x', 58), 'UTF8'), 'base64')
encode(convert_to(repeat('x', 114), 'UTF8'), 'base64') || '|'
encode(convert_to(repeat('x', 115), 'UTF8'), 'base64')
decode('', 'base64')
decode('YW Jj', 'base64')
decode('YW=Jj', 'base64')
decode('YWJj=', 'base64')
decode('Y', 'base64')
decode('YQ==', 'base64')
decode('YQ', 'base64')
decode('0', 'hex')
decode('zz', 'hex')
decode(E'0a\n0b', 'hex')
convert_from('\xff', 'UTF8')
convert_from('\x00', 'UTF8')
convert_from('\xeda080', 'UTF8')
'中' < '文'
'a' < 'é'
'Z' < 'a'
'😀' > '中'
'' < 'a'
'a ' = 'a'
'a'::char(3) = 'a  '
c < 'b'
c || c
upper(c)
nullif(c, 'ab')
coalesce(c, 'zz')
greatest(c, 'b')
CASE c WHEN 'ab   ' THEN 1 ELSE 0 END
c IN ('ab', 'é')
c BETWEEN 'a' AND 'b'
starts_with('中文', '中')
'中文' LIKE '_文'
'中文' LIKE '__'
'😀' LIKE '_'
'a\b' LIKE 'a\\b'
'a%b' LIKE 'a\%b'
'É' ILIKE 'é'
'ß' ILIKE 'SS'
'İ' ILIKE 'i'
'abc' LIKE '%' || 'b' || '%'
'abc' LIKE NULL
'' LIKE ''
'' LIKE '%'
'' LIKE '_'
'a' LIKE 'aa' ESCAPE 'a'
'aa' LIKE 'aaaa' ESCAPE 'a'
'a' LIKE 'a' ESCAPE 'xx'
'a%' LIKE 'a中%' ESCAPE '中'
-- patterns
'中文' ~ '^[一-龥]+$'
'é' ~ '^\w$'
'中' ~ '\w'
'😀' ~ '^.$'
U&'e\0301' ~ '^..$'
E'a\nb' ~ 'a.b'
E'a\nb' ~ 'a$'
E'a\nb' ~ '^b'
E'a\n' ~ 'a$'
'abc' ~ ''
'' ~ '^$'
'abc' ~ 'ABC'
'abc' ~* 'ABC'
'É' ~* 'é'
'ß' ~* 'ẞ'
'abc' ~ '(?i)ABC'
'a.c' ~ 'a\.c'
'a b' ~ 'a\sb'
'a_b' ~ '\Wb'
'aXb' ~ 'a[^x]b'
'aab' ~ '^a{2}b$'
'ab' ~ '^a{2,}b$'
'aaab' ~ '^a{1,2}b$'
'a]b' ~ 'a]b'
'a-b' ~ '[a\-z]b'
'\' ~ '[\\]'
'tel +49' ~ '\+\d+'
'x' ~ '[[:xdigit:]]'
'x' ~ '[[:punct:]]'
'。' ~ '[[:punct:]]'
'١' ~ '[[:digit:]]'
'Ⅷ' ~ '[[:digit:]]'
'É' ~ '[[:upper:]]'
'é' ~ '[[:lower:]]'
'中' ~ '[[:alpha:]]'
U&'\00A0' ~ '[[:space:]]'
U&'\3000' ~ '[[:space:]]'
U&'\3000' ~ '\s'
U&'\200B' ~ '\s'
'ab12' ~ '^[[:alnum:]]+$'
'foo bar' ~ '\yfoo\y'
'foobar' ~ '\yfoo\y'
'foo' ~ '\Afoo\Z'
regexp_replace('中文中', '中', 'x', 'g')
regexp_replace('abc', '(b)?', '[\1]', 'g')
regexp_replace('abc', '', 'x')
regexp_replace('aaa', 'a', '\\', 'g')
regexp_replace('aaa', 'a', '\&\&')
regexp_replace('abc', '(.)(.)(.)', '\3\2\1')
regexp_replace('abc', '(z)|b', '<\1>')
regexp_replace('abc', 'x', 'y')
regexp_replace('abc', 'c*', 'x', 'g')
regexp_replace('abc', '$', 'x', 'g')
regexp_replace('abc', '^', 'x', 'g')
regexp_replace('中b文', 'b*', '-', 'g')
regexp_replace('中b文', '\y', '|', 'g')
regexp_replace('aXbX', 'X?', '-', 'g')
regexp_replace('aXbX', 'X?', '-')
regexp_replace('', 'b*', 'x', 'g')
regexp_replace('a b  c', ' *', '_', 'g')
regexp_replace(E'a\nb\n', '$', '|', 'g')
regexp_replace(E'a\nb\n', '$', '|', 'gn')
regexp_replace(t, 'o*', '-', 'g')
regexp_replace(u, '\s*', '_', 'g')
regexp_replace('ABC', 'b', 'x', 'i')
regexp_replace('a.b', '.', 'x')
regexp_replace('  a  b ', '\s+', ' ', 'g')
regexp_replace(E'a\nb', '.', 'x', 'g')
regexp_replace(E'a\nb', '^.', 'x', 'gn')
regexp_replace('abc', 'b*', 'x', 'g')
regexp_replace('😀a😀', '[^a]', '', 'g')
regexp_replace(NULL, 'a', 'b')
substring('foobar' from 'o(.)b')
substring('foobar' from 'o.b')
substring('foobar' from '(z)?f')
substring('foobar' from 'z')
substring('a中b' from '[^a-z]')
substring('foobar' from '(?:o)(.)')
-- decimals and their ends
0.1 + 0.2
1.0 / 3.0
1 / 3
1::numeric / 3
10 / 3.0
1e10 / 3
1e-10 / 3
123456789012345678901234567890 / 7.0
1 / 1e30
1e30 / 1e-30
(1.0 / 3) * 3
22 / 7.00000000000000000000
-1.0 / 3
-0.0
0.00 * -1
- 0.00
1.10 * 1.10
99999999999999999999999999999999 * 99999999999999999999999999999999
1e100 + 1e-100
1e131071 * 10
1.5 % 0.4
-1.5 % 0.4
1e30 % 7
round(2.5)
round(3.5)
round(-0.5)
round(0.05, 1)
round(-0.05, 1)
round(1234.5678, -4)
round(5, -1)
round(5000, -4)
round(4999, -4)
round(1e20, 2)
round(12.345, -2000)
round(0, 5)
round('NaN'::numeric, 2)
round('Infinity'::numeric, 2)
trunc(1.999, 2)
trunc(-1.999, 2)
trunc(1999, -3)
trunc(-0.5)
ceil(-0.5)
floor(-0.5)
ceil(0.0000001)
floor(1e20)
abs(-0.0)
abs('NaN'::numeric)
abs('-Infinity'::numeric)
sign('NaN'::numeric)
sign('-Infinity'::numeric)
sign(0.00)
sqrt(2.00)
sqrt(0.0)
sqrt(1e20)
sqrt(1e-20)
sqrt(2e30)
sqrt(-1.0)
sqrt(-1)
power(0, 0)
power(0, -1)
power(-8, 1.0 / 3)
power(2, 1024)
mod(-7, 3)
mod(7, 0)
mod(-7.5, 2)
mod((-2147483648)::int, -1)
(-2147483648)::int / -1
(-2147483648)::int % -1
abs((-2147483648)::int)
abs((-32768)::smallint)
- (-32768)::smallint
2147483647 + 1
2147483647::bigint + 1
9223372036854775807 + 1
9223372036854775807 * 2
-9223372036854775808 - 1
(-9223372036854775808)::bigint / -1
(-9223372036854775808)::bigint % -1
32767::smallint + 1::smallint
32767::smallint * 2::smallint
200::smallint * 200
'NaN'::numeric = 'NaN'::numeric
'NaN'::numeric > 'Infinity'::numeric
'NaN'::numeric + 1
'Infinity'::numeric - 'Infinity'::numeric
'Infinity'::numeric * 0
'Infinity'::numeric / 'Infinity'::numeric
1 / 'Infinity'::numeric
'Infinity'::numeric / 0
'NaN'::numeric / 0
'Infinity'::numeric % 5
5 % 'Infinity'::numeric
'Infinity'::numeric::int
'NaN'::numeric::int
'NaN'::numeric::float8
'NaN'::numeric(5,2)
'Infinity'::numeric(5,2)
'NaN'::float8::numeric
'Infinity'::float8::numeric
'NaN'::float8::int
'NaN'::float8 = 'NaN'::float8
'NaN'::float8 > 'Infinity'::float8
'NaN'::float8 <> 1
least('NaN'::float8, 1)
greatest('NaN'::float8, 'Infinity'::float8)
-0.0::float8
0.0::float8 = (-0.0)::float8
'-0'::float8
'-0'::float8 || ''
'-0'::float8::numeric
'-0'::float8::int
1e308::float8 * 10
1e-308::float8 / 1e10
1e308::float8 + 1e308::float8
1.0::float8 / 0
0.0::float8 / 0
0.1::float4 + 0.2::float4
0.1::float4::float8
0.1::float8::float4
16777217::float4
16777217::int::float4::int
1e40::float4
1e-50::float4
'1e39'::float4
9007199254740993::float8
9007199254740993::bigint::float8::bigint
9223372036854775807::float8::bigint
-9223372036854775808::float8::bigint
0.5::float8::int
-0.5::float8::int
-1.5::float8::int
2147483647.5::float8::int
2147483647.4::float8::int
-2147483648.5::float8::int
32767.5::float4::smallint
0.5::numeric::int
1.5::numeric::int
-0.5::numeric::int
2147483647.5::int
9223372036854775807.5::bigint
32767.4::smallint
123.455::numeric(5,2)
999.995::numeric(5,2)
-999.995::numeric(5,2)
0.005::numeric(5,2)
0.00012::numeric(3,5)
123::numeric(2)
1.5::text
1e3::text
1e-7::text
100::numeric(10,2)::text
1.0e10::text
.5::text
5.::text
1e15::float8::text
1e16::float8::text
123456789012345680::float8::text
0.0001::float8::text
0.00001::float8::text
1e-5::float4::text
1e5::float4::text
1e6::float4::text
1234567.0::float4::text
5e-324::float8::text
1.7976931348623157e308::float8::text
'0x1A'::int
'1_000'::int
' 12'::int
'12 '::int
''::int
'-'::int
'+-1'::int
'١'::int
'１２'::int
'1e2'::int
'9223372036854775808'::bigint
'-9223372036854775808'::bigint
'32768'::smallint
'1e400000'::numeric
'1e-20000'::numeric
'.'::numeric
'1.'::numeric
'.1'::numeric
'+.1e+1'::numeric
'1e'::numeric
' Infinity '::numeric
'inf'::numeric
'-inf'::numeric
'+inf'::numeric
'infinit'::numeric
'nan'::numeric
'-nan'::numeric
'1,5'::numeric
'inf'::float8
'+infinity'::float8
'nan'::float8
'1e'::float8
'1d'::float8
'1f'::float8
''::float8
'1.5.2'::float8
't'::boolean
'tr'::boolean
'on'::boolean
'off'::boolean
'1'::boolean
'2'::boolean
''::boolean
'Y'::boolean
'nO'::boolean
0::boolean
-5::boolean
true::int
true::text
b::text || 'x'
to_hex(-1)
to_hex(-1::bigint)
to_hex(0)
to_char(123.456, '999.99')
to_char(0.0, '999.99')
to_char(0, '000')
to_char(-1, '000')
to_char(-1, 'FM000')
to_char(-1, 'S000')
to_char(1, 'S000')
to_char(1, '000S')
to_char(-1, '000MI')
to_char(1, '000MI')
to_char(1, 'MI000')
to_char(-1, 'MI000')
to_char(12345, '999')
to_char(12345.67, '999.9')
to_char(-12345, '999')
to_char(1e20, '9')
to_char(1234567, 'FM9,999,999.00')
to_char(1234567, '9G999G999D00')
to_char(0.1, 'FM9.99')
to_char(0.1, 'FM0.99')
to_char(0.10, 'FM0.00')
to_char(10, 'FM9.99')
to_char(10, 'FM9.00')
to_char(0, 'FM9')
to_char(0, 'FM9.99')
to_char(0, '9')
to_char(0.4, '9')
to_char(0.5, '9')
to_char(1.5, '9')
to_char(2.5, '9')
to_char(-0.4, '9')
to_char(-0.4, '9.0')
to_char(999.99, '999.9')
to_char(999.99, 'FM999.9')
to_char(100000, '99,999')
to_char(1, '9,999')
to_char(1, 'FM9,999')
to_char(1, '0,000')
to_char(1000, '"a"9"b"999')
to_char(1, '9"中"')
to_char(12, '9 9')
to_char(12, '99%')
to_char(12, '99 EUR')
to_char(NULL::numeric, '999')
-- NULL, and what decides
NULL = 1 OR true
NULL = 1 AND false
NOT (NULL = 1)
NOT (NULL AND false)
1 IN (NULL)
1 IN (1, NULL)
1 NOT IN (NULL, 1)
NULL IN (1)
NULL IN (NULL)
NULL NOT IN (1, 2)
(NULL = NULL) IS NULL
NULL IS DISTINCT FROM NULL
NULL IS NOT DISTINCT FROM 1
NULL BETWEEN 1 AND 2
5 BETWEEN NULL AND 3
5 NOT BETWEEN NULL AND 3
2 BETWEEN NULL AND 3
2 BETWEEN 3 AND 1
CASE NULL WHEN NULL THEN 'a' ELSE 'b' END
CASE WHEN NULL THEN 'a' ELSE 'b' END
coalesce(NULL::int, NULL::int)
nullif(1, 1.0)
nullif(1, NULL)
nullif(NULL, 1)
nullif(2, 1.0)
nullif(7, 2.0) / 2
nullif(i4, n)
nullif(i4, d)
nullif(i2, r)
nullif(n2, d)
nullif(n2, i4)
nullif(r, d)
nullif(r, n)
nullif(d, i4)
nullif(i8, i2)
nullif(i2, i8)
nullif(da, ts)
nullif(ts, tz)
nullif(c, t)
nullif(t, c)
9007199254740993::bigint = 9007199254740992::float8
9007199254740993 > 9007199254740992::float8
9007199254740993.0 = 9007199254740992::float8
16777217::int = 16777216::float4
16777217::bigint <> 16777216::float4
0.1 = 0.1::float4
0.1 = 0.1::float8
0.1::float4 = 0.1::float8
0.1::float4 < 0.1::float8
1e30 = 1e30::float8
i8 = d
i8 < r
n > d
n = r
n2 BETWEEN r AND d
i8 IN (9223372036854775807::float8, 1)
greatest(i8, d)
least(i8, r)
greatest(n, d)
coalesce(i8, d)
nullif('a', 'a ')
greatest(NULL, NULL::int)
least(NULL, 'b', 'a')
greatest('a', 'B')
greatest(1, 2.5, 3::float8)
concat(NULL)
concat(NULL, NULL)
concat(true, 1.50, date '2024-01-01')
concat_ws('', 'a', NULL, 'b')
concat_ws('中', 'a', 'b')
concat_ws(',', NULL)
concat_ws(',', '', '')
NULL || 'a'
'a' || NULL
1 || 'a'
1.50 || 'a'
true || 'a'
i4 || t
ts || 'x'
iv || 'x'
-- calendars and their ends
date '0001-01-01' - 1
date '4713-11-24 BC'
date '4714-11-24 BC'
date '4714-11-23 BC'
date '5874897-12-31'
date '5874898-01-01'
date '5874897-12-31' + 1
date 'infinity' + 1
date 'infinity' - date '2024-01-01'
date 'infinity' - date 'infinity'
date 'infinity' + interval '1 day'
date '-infinity' + time '10:00'
date 'infinity' = timestamp 'infinity'
date 'infinity' > date '9999-12-31'
date 'infinity'::timestamptz
timestamp 'infinity'::date
timestamp 'infinity' - timestamp '2024-01-01'
timestamp 'infinity' + interval '1 day'
timestamp 'infinity' - interval '1 day'
timestamp '-infinity' AT TIME ZONE 'Europe/Berlin'
timestamptz 'infinity' AT TIME ZONE 'UTC'
extract(year from date 'infinity')
extract(year from timestamp '-infinity')
extract(epoch from timestamp 'infinity')
extract(month from timestamptz 'infinity')
extract(dow from date 'infinity')
extract(century from date '0001-01-01')
extract(century from date '0001-12-31 BC')
extract(century from date '0100-12-31 BC')
extract(century from date '0101-01-01 BC')
extract(millennium from date '0001-01-01 BC')
extract(millennium from date '1000-01-01 BC')
extract(millennium from date '1001-01-01 BC')
extract(century from date '0100-12-31')
extract(century from date '0101-01-01')
extract(century from date '2000-12-31')
extract(century from date '2001-01-01')
extract(millennium from date '2001-01-01')
extract(decade from date '0009-01-01 BC')
extract(year from date '0001-01-01 BC')
extract(isoyear from date '2021-01-03')
extract(week from date '2021-01-03')
extract(week from date '2020-12-31')
extract(isoyear from date '0001-01-01 BC')
extract(dow from date '0001-01-01 BC')
extract(doy from date '2024-12-31')
extract(epoch from timestamp '1969-12-31 23:59:59.5')
extract(epoch from timestamptz '1969-12-31 23:59:59.5+00')
extract(epoch from date '1582-10-15')
extract(epoch from interval '1 year')
extract(epoch from interval '1 mon')
extract(epoch from interval '-1 mon 1 day')
extract(second from timestamp '2024-01-01 00:00:59.999999')
extract(milliseconds from timestamp '2024-01-01 00:00:59.999999')
extract(microseconds from time '23:59:59.999999')
extract(hour from time '24:00')
extract(quarter from date '2024-12-31')
extract(decade from interval '25 years')
extract(year from interval '-25 months')
extract(month from interval '-25 months')
extract(day from interval '40 days')
extract(hour from interval '40 hours')
extract(hour from interval '-90 minutes')
extract(minute from interval '-90 minutes')
extract(week from ts)
date_part('week', date '2024-12-30')
date_part('year', NULL::date)
date_trunc('week', date '2024-01-01')
date_trunc('week', timestamp '2023-01-01')
date_trunc('millennium', timestamp '2000-06-01')
date_trunc('century', timestamp '2000-06-01')
date_trunc('century', timestamp '0001-06-01 BC')
date_trunc('decade', timestamp '0009-06-01 BC')
date_trunc('quarter', timestamp '2024-12-31 23:59')
date_trunc('month', timestamp 'infinity')
date_trunc('MONTH', ts)
date_trunc('months', ts)
date_trunc('day', interval '1 day 25 hours')
date_trunc('quarter', interval '11 months')
date_trunc('week', interval '10 days')
date_trunc('decade', interval '-25 years')
timestamp '294277-01-01'
timestamp '4714-11-24 00:00:00 BC'
timestamp '4714-11-23 23:59:59 BC'
timestamp '294276-12-31 23:59:59.999999' + interval '1 microsecond'
timestamp '2024-01-31' + interval '1 month -1 day'
timestamp '2024-01-31' + interval '13 months'
timestamp '2024-02-29' + interval '1 year'
timestamp '2024-02-29' - interval '4 years'
timestamp '2023-03-31' - interval '1 month'
date '2024-12-31' + interval '2 months'
timestamp '2024-01-01' - timestamp '2023-01-01 00:00:01'
timestamp '2024-01-01' - timestamp '2024-01-02 12:00'
time '23:59' + interval '2 minutes'
time '00:00' - interval '1 second'
time '24:00' + interval '0'
time '12:00' - time '13:00'
time '23:59:60'
time '23:59:59.9999999'
time '24:00:01'
date '1999-01-08'
date '1999-1-8'
date '19990108'
date '99-01-08'
date ' 2024-01-01 '
date '2024-02-30'
date '2023-02-29'
date '1900-02-29'
date '2000-02-29'
date '2024-00-01'
date '2024-01-00'
date ''
date '2024-01-01 12:34'
date '2024-01-01T00:00:00'
date '0000-01-01'
date '10000-01-01'
date '2024-01-01 BC'
timestamp '2024-01-01 24:00:00'
timestamp '2024-01-01 23:59:59.9999999'
timestamp '2024-01-01 23:59:59.9999995'
timestamp '2024-01-01T23:59:59Z'
timestamp '2024-01-01 23:59:59.5 +05:30'
timestamptz '2024-01-01 23:59:59 +05:30'
timestamptz '2024-01-01 23:59:59+0530'
timestamptz '2024-01-01 23:59:59-08'
timestamptz '2024-01-01 23:59:59 UTC'
timestamptz '2024-01-01 23:59:59 Z'
timestamptz '2024-03-31 02:30 Europe/Berlin'
timestamptz '2024-10-27 02:30 Europe/Berlin'
timestamptz '2024-01-01 23:59:59 Asia/Kathmandu'
timestamptz '1900-01-01 00:00 Europe/Amsterdam'
timestamptz '2024-01-01 00:00+16'
timestamptz '2024-01-01 00:00 Nowhere/Town'
timestamp '2024-03-31 01:59:59' AT TIME ZONE 'Europe/Berlin'
timestamp '2024-03-31 02:00:00' AT TIME ZONE 'Europe/Berlin'
timestamp '2024-03-31 02:59:59' AT TIME ZONE 'Europe/Berlin'
timestamp '2024-03-31 03:00:00' AT TIME ZONE 'Europe/Berlin'
timestamp '2024-10-27 01:59:59' AT TIME ZONE 'Europe/Berlin'
timestamp '2024-10-27 02:00:00' AT TIME ZONE 'Europe/Berlin'
timestamp '2024-10-27 02:59:59' AT TIME ZONE 'Europe/Berlin'
timestamp '2024-10-27 03:00:00' AT TIME ZONE 'Europe/Berlin'
timestamp '2024-03-10 02:30' AT TIME ZONE 'America/New_York'
timestamp '2024-11-03 01:30' AT TIME ZONE 'America/New_York'
timestamp '2024-04-07 02:30' AT TIME ZONE 'Australia/Sydney'
timestamp '2024-10-06 02:30' AT TIME ZONE 'Australia/Sydney'
timestamp '2024-04-06 23:30' AT TIME ZONE 'America/Santiago'
timestamp '2011-12-30 12:00' AT TIME ZONE 'Pacific/Apia'
timestamp '1800-01-01 00:00' AT TIME ZONE 'Europe/Berlin'
timestamp '2050-07-01 12:00' AT TIME ZONE 'Europe/Berlin'
timestamp '2500-07-01 12:00' AT TIME ZONE 'America/New_York'
timestamptz '2024-10-27 00:30+00' AT TIME ZONE 'Europe/Berlin'
timestamptz '2024-10-27 01:30+00' AT TIME ZONE 'Europe/Berlin'
timestamptz '1850-01-01 00:00+00' AT TIME ZONE 'America/New_York'
ts AT TIME ZONE 'Asia/Shanghai'
tz AT TIME ZONE 'Asia/Shanghai'
ts AT TIME ZONE 'utc'
tz AT TIME ZONE 'Etc/GMT+5'
tz AT TIME ZONE 'America/Argentina/Buenos_Aires'
(tz AT TIME ZONE 'Asia/Kolkata')::date
(ts AT TIME ZONE 'UTC') AT TIME ZONE 'Pacific/Kiritimati'
da AT TIME ZONE 'UTC'
date_trunc('day', timestamptz '2024-11-03 12:00+00', 'America/New_York')
date_trunc('hour', timestamptz '2024-11-03 05:30+00', 'America/New_York')
date_trunc('hour', timestamptz '2024-11-03 06:30+00', 'America/New_York')
date_trunc('day', timestamptz '2024-04-07 12:00+00', 'Australia/Lord_Howe')
date_trunc('hour', timestamptz '2024-04-06 15:15+00', 'Australia/Lord_Howe')
date_trunc('week', tz, 'Asia/Tokyo')
date_trunc('month', timestamptz '2024-09-08 12:00+00', 'America/Santiago')
interval '1 year 14 months'
interval '1.25 years'
interval '0.7 mon'
interval '1.33 weeks'
interval '0.1 day'
interval '1.5 hours'
interval '-1.5 days'
interval '1 day -1 hour'
interval '-1 day +1 hour'
interval '1 mon -1 day'
interval '100:00:00'
interval '-00:00:01'
interval '00:00:00.0000001'
interval '0.0000005 s'
interval 'P1Y'
interval 'PT1H'
interval 'P1W'
interval 'P1.5M'
interval 'PT0.5S'
interval 'P-1Y2M'
interval '1 decade'
interval '1 century 1 millennium'
interval '5 ms'
interval '5 us'
interval '1y 2mon 3d 4h 5m 6s'
interval '1 fortnight'
interval ''
interval '178000000 years'
interval '178956970 years'
interval '178956971 years'
interval '2147483647 days'
interval '2147483648 days'
interval 'infinity'
interval '1 day' * 0.3333
interval '1 month' * 0.5
interval '1 year' * 1.1
interval '1 month 1 day' / 3
interval '1 day' / 0.0
interval '1 hour' * 'NaN'::float8
interval '1 year' * 1e10
interval '30 days' = interval '1 month'
interval '24 hours' = interval '1 day'
interval '1 day' > interval '23:59:59'
interval '1 month' - interval '30 days'
- interval '1 mon -1 day'
interval '1 day'::time
interval '25 hours'::time
interval '-1 hour'::time
time '10:00'::interval
interval '1.5 s'::interval(0)
interval '2.5 s'::interval(0)
justify_hours(interval '1 mon 25 hours')
make_date(0, 1, 1)
make_date(2024, 13, 1)
make_date(-1, 12, 31)
make_date(5874897, 12, 31)
make_date(5874898, 1, 1)
to_timestamp(-0.5)
to_timestamp(1e18)
to_timestamp('infinity'::float8)
to_timestamp('NaN'::float8)
to_timestamp(1.0000005)
to_timestamp(1.0000015)
to_timestamp(1700000000.123456)
to_timestamp(1700000000.9999995)
to_timestamp(-62135596800)
to_timestamp(d)
to_timestamp(i4)
to_timestamp(n2)
ts::text
tz::text
da::text
ti::text
timestamp '2024-01-01 00:00:00.100000'::text
timestamp '0044-03-15 00:00 BC'::text
timestamptz '0044-03-15 00:00+00 BC'::text
date '12024-01-01'::text
interval '1 mon -1 day'::text
interval '-1 mon 1 day'::text
interval '-1 year -2 mons +3 days -04:05:06.7'::text
interval '0'::text
interval '1 day 00:00:00.000001'::text
to_char(timestamp '2024-01-01 00:00', 'HH12 HH24 AM')
to_char(timestamp '2024-01-01 12:00', 'HH12 AM P.M.')
to_char(timestamp '2024-01-01 12:00', 'FMHH12am')
to_char(date '2024-12-30', 'IYYY-"W"IW-ID')
to_char(date '2021-01-03', 'IYYY-IW')
to_char(date '2021-01-03', 'YYYY-WW')
to_char(date '0044-03-15 BC', 'YYYY AD')
to_char(date '0044-03-15 BC', 'YYYY')
to_char(date '0044-03-15 BC', 'IYYY')
to_char(date '12024-01-01', 'YYYY')
to_char(date '12024-01-01', 'YYY')
to_char(date '2024-09-03', 'FMDD.FMMM.YYYY')
to_char(date '2024-09-03', 'FMDD.MM.YYYY')
to_char(date '2024-09-03', '"DD"DD')
to_char(date '2024-09-03', 'YYYY年MM月DD日')
to_char(date '2024-09-03', '\YYYY')
to_char(date '2024-05-03', 'Month|')
to_char(date '2024-05-03', 'FMMonth|')
to_char(date '2024-09-03', 'Dth')
to_char(date '2024-09-11', 'DDth DDTH')
to_char(date '2024-09-21', 'DDth')
to_char(timestamp '2024-09-03 01:02:03.004005', 'MS US FF1 FF2 FF3 FF4 FF5 FF6')
to_char(timestamp '2024-09-03 23:59:59', 'SSSS SSSSS')
to_char(timestamp 'infinity', 'YYYY')
to_char(NULL::date, 'YYYY')
to_date('2024-1-2', 'YYYY-MM-DD')
to_date('2024/01/02', 'YYYY-MM-DD')
to_date('2024 01 02', 'YYYYMMDD')
to_date(' 2024-01-02', 'YYYY-MM-DD')
to_date('2024-01-02 ', 'YYYY-MM-DD')
to_date('20240102', 'YYYY-MM-DD')
to_date('1-2-2024', 'DD-MM-YYYY')
to_date('2024-13-02', 'YYYY-MM-DD')
to_date('2024-02-29', 'YYYY-DD-MM')
to_date('02 JAN 2024', 'DD MON YYYY')
to_date('2 january 2024', 'DD month YYYY')
to_date('2 Sept 2024', 'DD Mon YYYY')
to_date('12024-01-01', 'YYYY-MM-DD')
to_date('0000-01-01', 'YYYY-MM-DD')
to_date('2024-01', 'YYYY-MM')
to_date('2024', 'YYYY')
to_date('366 2023', 'DDD YYYY')
to_date('366 2024', 'DDD YYYY')
to_date('367 2024', 'DDD YYYY')
to_date('2024-01-02', 'YYYY"-"MM"-"DD')
to_date('2024年01月02日', 'YYYY"年"MM"月"DD"日"')
to_timestamp('2024-01-02 25:00', 'YYYY-MM-DD HH24:MI')
to_timestamp('2024-01-02 13:00', 'YYYY-MM-DD HH12:MI')
to_timestamp('2024-01-02 12:00 AM', 'YYYY-MM-DD HH12:MI AM')
to_timestamp('2024-01-02 12:00 PM', 'YYYY-MM-DD HH12:MI PM')
to_timestamp('2024-01-02 12:00:00.5', 'YYYY-MM-DD HH24:MI:SS.MS')
to_timestamp('2024-01-02 12:00:00.005', 'YYYY-MM-DD HH24:MI:SS.MS')
to_timestamp('2024-01-02 12:00:00.000005', 'YYYY-MM-DD HH24:MI:SS.US')
to_timestamp('2024-01-02 12:00:60', 'YYYY-MM-DD HH24:MI:SS')
to_timestamp('2024-01-02T12:00', 'YYYY-MM-DD"T"HH24:MI')
to_timestamp('20240102120000', 'YYYYMMDDHH24MISS')
-- documents
'{"a":1,"a":2}'::jsonb
'{"a":1,"a":2}'::json -> 'a'
'{"a":1,"a":2}'::json ->> 'a'
'{"b":1,"aa":2,"a":3}'::jsonb
'{"中":1,"a":2}'::jsonb
'[1.0, 1.00, 1e2, 1E-2, -0, -0.0]'::jsonb
'1e400'::jsonb
'"\ud83d\ude00"'::jsonb
'"\ud83d"'::jsonb
'"\u0000"'::json
'"\/\b\f\n\r\t\""'::jsonb
'"tab	tab"'::jsonb
'{"a":[]}'::jsonb #>> '{a,0}'
'{"a":[1,[2,3]]}'::jsonb #> '{a,1,-1}'
'{"a":[1,[2,3]]}'::jsonb #> '{a,x}'
'{"a":{"1":"x"}}'::jsonb #>> '{a,1}'
'[10,20]'::jsonb -> 5
'[10,20]'::jsonb -> -3
'[10,20]'::jsonb -> '0'
'{"0":1}'::jsonb -> 0
'"x"'::jsonb ->> 'a'
'[1,2]'::jsonb ->> 0
'{"a":null}'::jsonb -> 'a'
'{"a":null}'::jsonb ->> 'a'
'{"a":null}'::jsonb -> 'a' IS NULL
'{"a":"x\u00e4\n"}'::jsonb ->> 'a'
'{"a":1.50}'::jsonb ->> 'a'
'{"a":1.50}'::json ->> 'a'
'{"a":{"b": 1,  "c":2}}'::json -> 'a'
'{"a":{"b": 1,  "c":2}}'::jsonb -> 'a'
'{"a":true}'::jsonb ->> 'a'
('{"a":"12"}'::jsonb ->> 'a')::int + 1
jsonb_typeof('null'::jsonb)
jsonb_typeof('{"a":null}'::jsonb -> 'a')
jsonb_typeof('1.5'::jsonb)
jsonb_array_length('{}'::jsonb)
jsonb_array_length('[1,[2,3]]'::jsonb)
jsonb_build_object()
jsonb_build_object('a')
jsonb_build_object(NULL, 1)
jsonb_build_object('a', NULL)
jsonb_build_object('中', '😀')
jsonb_build_object('a', 1.50, 'b', 1e3::float8, 'c', 'NaN'::float8)
jsonb_build_object('q', '"', 'b', '\', 'n', E'\n')
json_build_object('a', date '2024-01-01', 'b', timestamp '2024-01-01 00:00:00.5', 'c', timestamptz '2024-01-01 00:00+00')
json_build_object(1, 2)
json_build_object('iv', interval '1 day', 'id', id, 'y', y)
jsonb_build_array()
jsonb_build_array(NULL, 'x', 1.0, true)
json_build_array(t, u, d, r)
to_jsonb('NaN'::float8)
to_jsonb('Infinity'::numeric)
to_jsonb(NULL::text)
to_jsonb(i8)
to_jsonb(ts)
to_jsonb(tz)
to_jsonb(da)
to_json(t)
to_json(b)
to_jsonb(j)
'{"a":1}'::jsonb::text
'{"a":1}'::text::jsonb
'{"a":1'::jsonb
''::jsonb
'nul'::jsonb
'01'::jsonb
'[1,]'::jsonb
'{a:1}'::jsonb
('5'::jsonb)::int
('5.7'::jsonb)::int
('"5"'::jsonb)::int
('true'::jsonb)::boolean
('1.5'::jsonb)::float8
-- bytes and ids
'\x'::bytea
'\X0A'::bytea
'\x0 a'::bytea
'\x0a'::bytea || '\x0b'::bytea
'\x0a'::bytea < '\x0b00'::bytea
length('\x0a0b'::bytea)
md5('\x00'::bytea)
y::text
'a\'::bytea
'\\'::bytea
'\400'::bytea
'\x0a'::bytea::text
'A0EEBC999C0B4EF8BB6D6BB9BD380A11'::uuid
'a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11'::uuid
'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1'::uuid
' a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid
id::text || 'x'
id IN ('01010101-0101-0101-0101-010101010101')
-- literals and what binds how
'a' 'b'
U&'\4E2D'
E'\u4e2d\x41\101'
E'\u00e4'
1.e3
1e+3
0x1F
1_000
2 - -2
- - 2
NOT NOT b
NOT b IS NULL
b = true = b
i4 = 1 = b
1 < 2 AND 2 < 3
1 + 2 || 3 || 'x'
'a' || 'b' = 'ab'
'a' || 'b' LIKE 'a%'
NOT 'a' LIKE 'b'
1 + 1 BETWEEN 1 AND 2 + 1
i4 BETWEEN 1 AND 2 AND b
i4 IN (1, 2) IS TRUE
i4 IS NULL = b
i4 IS NULL OR NOT b AND NULL
-1::int
-32768::smallint
(-32768)::smallint
-9223372036854775808::bigint
- 1 % 3
2 * 3 % 4
10 - 2 - 3
2 / 3 * 3
'2' + 3
'2' || 3
1 = '1'
1 = '1.0'
1.5 = '1.5'
da = '2024-02-29'
'2024-02-29' = da
da > '2024-02-29 10:00'
ts = '2024-02-29'
iv > '1 day'
b = 't'
i4 + '5'
n + '5.5'
CASE WHEN b THEN 1 ELSE '2' END
CASE WHEN b THEN t ELSE c END
CASE WHEN b THEN da ELSE '2024-01-01' END
CASE WHEN b THEN i2 ELSE i8 END
CASE WHEN b THEN r ELSE d END
CASE WHEN b THEN n2 ELSE r END
coalesce(i2, i8)
coalesce(n2, '5')
coalesce(u, c)
coalesce(ts, da)
coalesce(tz, ts)
coalesce(da, tz)
nullif(i4, '0')
greatest(da, ts, tz)
"#;

//! A report as one page: text, inline drawings and styles, nothing to fetch and nothing that runs.

use super::rates::Rates;
use super::report::{Line, Report, Section};
use protocol::profile::Part;
use std::fmt::Write as _;

const STYLE: &str = include_str!("style.css");
/// Columns of a chart: names, bars, numbers.
const NAMES: f64 = 250.0;
const BARS: f64 = 800.0;
const WIDTH: f64 = 1132.0;
/// A party's bar, and what a line of three takes.
const BAR: f64 = 11.0;
const ROW: f64 = 3.0 * (BAR + 2.0) + 12.0;

/// The page.
pub(super) fn page(r: &Report) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{0} – Catamount</title><style>{STYLE}</style></head><body><main>\n\
         <h1>{0}</h1>\n<p class=\"dim\">{1}</p>\n<p><code>{2}</code></p>\n",
        escape(&r.title),
        escape(&r.machine),
        escape(&r.command)
    );
    out += &rates(&r.rates);
    for section in &r.sections {
        out += &self::section(section);
    }
    out += &notes(&r.rates);
    out + "</main></body></html>\n"
}

fn section(s: &Section) -> String {
    let mut out =
        format!("<section>\n<h2>{}</h2>\n<p class=\"dim\">{}</p>\n", escape(&s.title), escape(&s.about));
    out += &tiles(s);
    if let Some(whole) = &s.whole {
        out += "<h3>The three parties</h3>\n";
        out += &legend();
        out += &chart(std::slice::from_ref(whole));
        out += "<h3>Bytes on each link</h3>\n";
        out += &link_chart(whole);
        out += "<h3>By part of the program</h3>\n";
    }
    out += &legend();
    out += &chart(&s.lines);
    out += "<h3>Costs</h3>\n";
    out += &costs(s);
    if !s.operations.is_empty() {
        let _ = write!(
            out,
            "<details><summary>By kind of operation</summary>\n{}</details>\n",
            chart(&s.operations)
        );
    }
    out + "</section>\n"
}

/// What the machine does at best.
fn rates(r: &Rates) -> String {
    let tile = |figure: String, what: &str| {
        format!("<div class=\"tile\"><b>{figure}</b><span>{what}</span></div>\n")
    };
    let products = tile(format!("{:.1} G/s", r.products_per_s / 1e9), "products on one core");
    let reading = tile(format!("{:.1} GB/s", r.reading_per_s / 1e9), "weights read, all cores");
    let random = tile(format!("{:.1} GB/s", r.random_per_s / 1e9), "random words on one core");
    let on = r.network.as_deref().unwrap_or("loopback");
    let link = tile(format!("{:.0} MB/s", r.bytes_per_s / 1e6), &format!("one link, QUIC on {}", escape(on)));
    let exchange = tile(format!("{:.0} µs", r.exchange_s * 1e6), "an exchange of 64 bytes");
    format!(
        "<h3>This machine at best</h3>\n<div class=\"tiles\">\n{products}{reading}{random}{link}{exchange}</div>\n"
    )
}

fn tiles(s: &Section) -> String {
    let same = match s.as_declared() {
        true => "<b class=\"good\">= declared</b><span>exchanges and bytes of every line</span>",
        false => "<b class=\"bad\">NOT as declared</b><span>see the table of costs</span>",
    };
    let mut out = String::from("<div class=\"tiles\">\n");
    if let Some(whole) = &s.whole {
        for (figure, what) in [
            (milliseconds(whole.critical_ms()), "at the slower evaluator"),
            (whole.measured.exchanges.to_string(), "exchanges between P1 and P2"),
            (bytes(whole.measured.total()), "between the parties"),
            (whole.floor.map_or("–".into(), |f| milliseconds(f.total_ms)), "floor"),
            (over_floor(whole), "measured over floor"),
        ] {
            let _ = writeln!(out, "<div class=\"tile\"><b>{figure}</b><span>{what}</span></div>");
        }
    }
    let _ = writeln!(out, "<div class=\"tile\">{same}</div>\n</div>");
    out
}

fn legend() -> String {
    let part = |part: &Part| format!("<span><i class=\"{}\"></i>{}</span>", class(*part), part.name());
    let parts: Vec<String> = Part::ALL.iter().map(part).collect();
    format!("<div class=\"legend\">{}<span><i class=\"mark\"></i>floor</span></div>\n", parts.join(""))
}

/// Three bars for each line, divided by what the party did.
fn chart(lines: &[Line]) -> String {
    let longest = lines.iter().flat_map(|l| l.total_ms).fold(f64::MIN_POSITIVE, f64::max);
    let (scale, height) = (BARS / longest, ROW * lines.len() as f64 + 22.0);
    let mut out = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n");
    for (at, label) in ticks(longest) {
        let x = NAMES + at * scale;
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{0:.1}\"/><text class=\"who\" x=\"{x:.1}\" y=\"{1:.1}\" text-anchor=\"middle\">{label}</text>",
            height - 16.0,
            height - 3.0
        );
    }
    for (i, line) in lines.iter().enumerate() {
        let top = ROW * i as f64 + 4.0;
        let (name, size) = label(line);
        let _ = writeln!(out, "<text x=\"0\" y=\"{:.1}\">{}</text>", top + 14.0, escape(name));
        let _ = writeln!(out, "<text class=\"size\" x=\"0\" y=\"{:.1}\">{}</text>", top + 30.0, escape(size));
        for (party, times) in line.times_ms.iter().enumerate() {
            let y = top + party as f64 * (BAR + 2.0);
            let _ = writeln!(
                out,
                "<text class=\"who\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">P{party}</text>",
                NAMES - 6.0,
                y + BAR - 1.5
            );
            let mut x = NAMES;
            for part in Part::ALL {
                let ms = times[part.name()];
                let width = ms * scale;
                // What cannot be seen is left out of the drawing, not out of the sum.
                if width >= 0.05 {
                    let _ = writeln!(
                        out,
                        "<rect class=\"{}\" x=\"{x:.2}\" y=\"{y:.1}\" width=\"{width:.2}\" height=\"{BAR}\"><title>P{party}, {}: {}</title></rect>",
                        class(part),
                        part.name(),
                        milliseconds(ms)
                    );
                }
                x += width;
            }
            let total = milliseconds(line.total_ms[party]);
            let _ = writeln!(
                out,
                "<text class=\"who\" x=\"{:.1}\" y=\"{:.1}\">{total}</text>",
                x + 5.0,
                y + BAR - 1.5
            );
        }
        if let Some(floor) = line.floor {
            let x = NAMES + floor.total_ms * scale;
            let _ = writeln!(
                out,
                "<line class=\"floor\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"><title>floor: {}</title></line>",
                top - 2.0,
                top + 3.0 * (BAR + 2.0),
                milliseconds(floor.total_ms)
            );
        }
    }
    out + "</svg>\n"
}

/// Round numbers up to `longest` milliseconds.
fn ticks(longest: f64) -> Vec<(f64, String)> {
    let magnitude = 10f64.powf((longest / 4.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|s| s * magnitude);
    let step = steps.into_iter().find(|s| longest / s <= 7.0).unwrap_or(10.0 * magnitude);
    (0..=(longest / step) as usize).map(|i| (i as f64 * step, milliseconds(i as f64 * step))).collect()
}

fn link_chart(whole: &Line) -> String {
    let most = whole.measured.bytes.values().copied().max().unwrap_or(0).max(1) as f64;
    let height = 22.0 * whole.measured.bytes.len() as f64;
    let mut out = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n");
    for (i, (link, &measured)) in whole.measured.bytes.iter().enumerate() {
        let (y, width) = (22.0 * i as f64, measured as f64 / most * (BARS - 130.0));
        let declared = whole.declared.as_ref().and_then(|d| d.bytes.get(link)).copied();
        let same = match declared {
            Some(declared) if declared == measured => " = declared".to_string(),
            Some(declared) => format!(", declared {}", bytes(declared)),
            None => String::new(),
        };
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text><rect class=\"compute\" x=\"{NAMES}\" y=\"{:.1}\" width=\"{width:.2}\" height=\"14\"/><text class=\"who\" x=\"{:.1}\" y=\"{:.1}\">{}{same}</text>",
            NAMES - 8.0,
            y + 14.0,
            escape(&link.replace("->", " → ")),
            y + 3.0,
            NAMES + width + 5.0,
            y + 14.0,
            bytes(measured)
        );
    }
    out + "</svg>\n"
}

fn costs(s: &Section) -> String {
    let mut out = String::from(
        "<div class=\"scroll\"><table>\n<tr><th rowspan=\"2\"></th><th rowspan=\"2\">ex-<br>changes</th>\
         <th colspan=\"3\">bytes</th><th rowspan=\"2\">declared</th><th rowspan=\"2\">products</th>\
         <th colspan=\"5\">floor</th><th colspan=\"2\">measured</th></tr>\n\
         <tr><th>P0 → P1</th><th>P0 → P2</th><th>P1 ⇄ P2, each</th><th>products</th><th>random</th><th>bytes</th><th>exchanges</th>\
         <th>all</th><th>time</th><th>/ floor</th></tr>\n",
    );
    for (line, class) in
        s.lines.iter().map(|l| (l, "")).chain(s.whole.iter().map(|l| (l, " class=\"whole\"")))
    {
        let on = |link: &str| bytes(line.measured.bytes.get(link).copied().unwrap_or(0));
        let declared = match (&line.declared, line.as_declared) {
            (Some(_), Some(true)) => "<td class=\"good\">as measured</td>".to_string(),
            (Some(d), _) => format!("<td class=\"bad\">{} exch., {}</td>", d.exchanges, bytes(d.total())),
            (None, _) => "<td>–</td>".into(),
        };
        let products = count(line.products);
        let floor = line.floor.map(|f| [f.products(), f.random_ms, f.bytes_ms, f.exchanges_ms, f.total_ms]);
        let floor: String = match floor {
            Some(parts) => parts.map(|ms| format!("<td>{}</td>", milliseconds(ms))).concat(),
            None => "<td>–</td>".repeat(5),
        };
        let _ = writeln!(
            out,
            "<tr{class}><td title=\"{}\">{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>{declared}<td>{products}</td>{floor}<td>{}</td><td>{}</td></tr>",
            escape(label(line).1),
            escape(label(line).0),
            line.measured.exchanges,
            on("P0->P1"),
            on("P0->P2"),
            on("P1->P2"),
            milliseconds(line.critical_ms()),
            over_floor(line)
        );
    }
    out + "</table></div>\n"
}

fn notes(r: &Rates) -> String {
    let (products, rate) = (r.products_per_s / 1e9, r.bytes_per_s / 1e6);
    format!(
        "<section><h2>How to read this</h2>\n<ul>\n\
         <li>A party's time is divided without gap or overlap. It belongs to the operation that last spoke to the \
         protocol; an exchange belongs in equal parts to all operations that travel in it. <i>Compute</i> is everything \
         that is none of the other kinds, and includes the time in which the system gave the core to somebody else.</li>\n\
         <li><i>Back-pressure</i> is counted where a message of the dealer was full; the words in it are of the \
         operations before it, too.</li>\n\
         <li>P0 deals ahead: its time is not on the critical path except where an evaluator waits for it. \
         <i>Measured</i> is the time of the slower evaluator. Parts that run side by side share exchanges, so that \
         the parts' exchanges can add up to more than the whole's.</li>\n\
         <li><i>Declared</i> is what the gates say of themselves before anything runs; payload only, without a header \
         of 20 bytes a message.</li>\n\
         <li>The floor is the least at rates measured just before, on the same machine: {products:.1} G products a second \
         and core ({} rows at once, {} cores; with weights and of attention), or weights read at {:.1} GB/s if that takes \
         longer; a random byte at each of two parties for a byte sent, {:.1} GB/s a core; {:.2} CPU-seconds a GB sent \
         (QUIC), and {rate:.0} MB/s at most on the fullest link ({}); {:.0} µs an exchange. <i>All</i> is the longest of \
         three: the work of all parties on all cores; that of the evaluators, which wait for the exchanges besides; the \
         fullest link. Work that is none of these (tables, comparison keys, element-wise operations) has no part in \
         it.</li>\n</ul></section>\n",
        r.rows,
        r.cores,
        r.reading_per_s / 1e9,
        r.random_per_s / 1e9,
        r.cpu_s_per_gb,
        escape(r.network.as_deref().unwrap_or("loopback")),
        r.exchange_s * 1e6
    )
}

fn class(part: Part) -> &'static str {
    match part {
        Part::Compute => "compute",
        Part::Streams => "streams",
        Part::Packing => "packing",
        Part::Peer => "peer",
        Part::Dealer => "dealer",
        Part::Pressure => "pressure",
    }
}

/// The name of a line, and what stands below it.
fn label(line: &Line) -> (&str, &str) {
    match line.name.strip_prefix("layer.*/") {
        Some(name) => (name, "all layers"),
        None => (&line.name, &line.size),
    }
}

fn over_floor(line: &Line) -> String {
    let floor = line.floor.map(|f| f.total_ms).filter(|f| *f > 0.0);
    floor.map_or("–".into(), |f| format!("{:.1} ×", line.critical_ms() / f))
}

/// Three digits or so.
fn milliseconds(ms: f64) -> String {
    match ms {
        0.0 => "0".into(),
        _ if ms < 0.1 => format!("{:.1} µs", ms * 1e3),
        _ if ms < 10.0 => format!("{ms:.2} ms"),
        _ if ms < 1000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.2} s", ms / 1e3),
    }
}

/// A number of products.
fn count(n: u64) -> String {
    match n {
        0 => "–".into(),
        1..1_000_000_000 => format!("{:.2} M", n as f64 / 1e6),
        _ => format!("{:.2} G", n as f64 / 1e9),
    }
}

fn bytes(n: u64) -> String {
    match n {
        0..1000 => format!("{n} B"),
        1000..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        _ => format!("{:.2} MB", n as f64 / 1e6),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

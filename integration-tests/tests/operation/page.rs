//! The admin page in headless Chromium, on a real daemon under load; and what many clients of the admin server can't do.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable as _;
use rowbust_integration_tests::browser::Browser;
use rowbust_integration_tests::daemon::Daemon;
use rowbust_integration_tests::db::Flavor;
use rowbust_integration_tests::load::{Load, Plan};
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_integration_tests::{http, shop};
use rowbust_servers::ports::free_port;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const WITHIN: Duration = Duration::from_secs(30);
const TOKEN: &str = "a-token-of-twenty-six-chars";
/// A table's name, and what its keys begin with: markup that would show if it ran.
const HOSTILE: &str = "<img src=x onerror=pwned=1>";

fn pictures(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("page-{name}.png"))
}

fn load(stage: &Stage) -> Load {
    stage.load(Plan { writers: 2, readers: 1, pause: Duration::from_millis(20), hot: 20, seed: 1 })
}

/// Texts whose contrast is less than WCAG 2.2 asks for (4.5, large ones 3).
const PALE: &str = r#"(() => {
  const parse = (text) => text.match(/[\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const pale = [];
  for (const node of document.body.querySelectorAll("*")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!own || !node.checkVisibility() || node.closest(".unseen")) continue;
    const style = getComputedStyle(node);
    const [a, b] = [light(parse(style.color)), light(ground(node))].sort((a, b) => b - a);
    const least = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
    if ((a + 0.05) / (b + 0.05) < least) pale.push(`${node.tagName} ${node.className} ${node.textContent.slice(0, 30)}`);
  }
  return pale;
})()"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_shows_what_is() -> Result<()> {
    let Some(mut stage) = Stage::new(Flavor::MariaDb, "page").await? else { return Ok(()) };
    let Some(browser) = Browser::start().await? else { return Ok(()) };
    stage.open_shop(20).await?;
    let mut conn = stage.sql().await?;
    conn.query_drop(format!("CREATE TABLE `{HOSTILE}` (id INT PRIMARY KEY)")).await?;
    stage.settings.mappings = Some(format!(
        "{}  - {{ table: \"page.{HOSTILE}\", fill_grace: 100ms, keys: [\"{HOSTILE}:{{id}}\"] }}\n",
        shop::mappings("page", "")
    ));
    stage.settings.admin = format!(", token: \"{TOKEN}\"");
    let mut daemon = stage.start().await?;
    let writing = load(&stage);
    let url = format!("http://127.0.0.1:{}/", stage.admin());
    browser.size(1200, 900).await?;
    browser.open(&url).await?;

    // Live numbers, that change.
    let state = |is: &str| format!("document.getElementById('state').innerText === '{is}'");
    browser.until("the state", &state("active")).await?;
    browser
        .until("rates", &format!("parseFloat({}) > 0 && parseFloat({}) > 0", number("rows"), number("keys")))
        .await?;
    browser
        .until("bytes behind", &format!("/^[\\d.]+ [KM]?i?B$/.test({})", number("behind the server")))
        .await?;
    browser
        .until("latencies", &format!("/^[\\d.]+ m?s$/.test({})", number("receipt to removal, p99")))
        .await?;
    // Under load there is always something newer.
    browser
        .until(
            "the lag",
            &format!("/^[\\d.]+ m?s$/.test({lag}) && parseFloat({lag}) > 0", lag = number("lag")),
        )
        .await?;
    let rows = browser.eval(&number("rows")).await?;
    browser.until("another rate", &format!("{} !== {rows}", number("rows"))).await?;
    browser
        .until(
            "lines",
            "[...document.querySelectorAll('#c-rates path')].every((p) => p.getAttribute('d').includes('L'))",
        )
        .await?;
    let transactions = card(&browser, "source", "transactions").await?;
    browser
        .until("newer counters", &format!("{} !== {transactions}", card_of("source", "transactions")))
        .await?;
    for (shown, what) in [("b", "checkpoint"), ("breaker closed", "main"), ("empty", "queue")] {
        let text = browser.text(&format!("[data-key={what}]")).await?;
        ensure!(text.contains(shown), "{what}: {text}");
    }

    // What users name their tables and keys is text.
    conn.query_drop(format!("INSERT INTO `{HOSTILE}` VALUES (1), (2)")).await?;
    let shows =
        |selector: &str| format!("document.querySelector('{selector}').innerText.includes('{HOSTILE}')");
    browser.until("the table's name", &shows("#attention")).await?;
    // Until it is one of the sample.
    let began = Instant::now();
    let mut id = 2;
    while browser.eval(&shows("#sample")).await? != true {
        ensure!(began.elapsed() < WITHIN, "{}", browser.text("#removals").await?);
        id += 1;
        conn.query_drop(format!("INSERT INTO `{HOSTILE}` VALUES ({id})")).await?;
    }
    let made = browser.eval("[typeof pwned, document.querySelectorAll('main img, main script, main [onerror]').length].join()").await?;
    ensure!(made == "undefined,0", "{made}");
    // Nor could the page make markup of it by mistake.
    let refused = browser
        .eval("(() => { try { document.body.innerHTML = '<b>x</b>' } catch (e) { return e.name } })()")
        .await?;
    ensure!(refused == "TypeError", "{refused}");
    let complaints = browser.complaints();
    ensure!(complaints.iter().all(|c| c.contains("TrustedHTML")) && complaints.len() <= 1, "{complaints:?}");

    // On a phone, by day and by night, with a keyboard.
    browser.size(320, 640).await?;
    let width = browser.eval("document.documentElement.scrollWidth").await?;
    ensure!(width.as_u64() <= Some(320), "{width} wide: {}", browser.eval(WIDE).await?);
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        browser.colours(scheme).await?;
        browser.picture(&pictures(&format!("phone-{scheme}"))).await?;
        grounds.push(browser.eval("getComputedStyle(document.body).backgroundColor").await?);
        let pale = browser.eval(PALE).await?;
        ensure!(pale == Value::Array(Vec::new()), "{scheme}: {pale:#}");
        browser.size(1200, 900).await?;
        browser.picture(&pictures(&format!("wide-{scheme}"))).await?;
        browser.size(320, 640).await?;
    }
    ensure!(grounds[0] != grounds[1], "{grounds:?}");
    browser.press("Tab").await?;
    ensure!(browser.eval("document.activeElement.className").await? == "skip");
    browser.press("Enter").await?;
    ensure!(browser.eval("document.activeElement.id").await? == "main");
    let unnamed = "[...document.querySelectorAll('input, button, svg, section')].filter((n) => !(n.labels?.length || n.innerText || n.ariaLabel || n.getAttribute('aria-labelledby'))).length";
    ensure!(browser.eval(unnamed).await? == 0);

    token(&browser, &url).await?;
    faults(&mut stage, &browser, &mut daemon).await?;
    ensure!(browser.complaints().iter().all(|c| c.contains("net::ERR_") || c.contains("401")), "complaints");
    writing.stop().await?;
    browser
        .until("no lag", &format!("{} === '0 s' && {} === 'all is done'", number("lag"), note("lag")))
        .await?;
    standby(&stage, &browser).await
}

/// What is wider than the window.
const WIDE: &str = "[...document.querySelectorAll('*')].filter((n) => n.getBoundingClientRect().right > 320).map((n) => n.outerHTML.slice(0, 80)).join('\\n')";

/// A figure of the first row.
fn number(name: &str) -> String {
    child(name, 1)
}

/// What stands below it.
fn note(name: &str) -> String {
    child(name, 2)
}

fn child(name: &str, at: usize) -> String {
    format!(
        "[...document.querySelectorAll('#numbers > div')].find((n) => n.children[0].innerText === '{name}')?.children[{at}].innerText"
    )
}

/// Whether the list of warnings has the breaker's, with its time and level; `values`: what must hold for what stands behind it.
fn logged(values: &str) -> String {
    format!(
        "[...document.querySelectorAll('#log li')].some((n) => n.children.length === 4 && /^\\d\\d:\\d\\d:\\d\\d/.test(n.children[0].innerText) \
         && n.children[1].innerText.toLowerCase() === 'warn' && n.children[2].innerText.includes('breaker opens') \
         && n.children[3].innerText{values})"
    )
}

fn card_of(key: &str, name: &str) -> String {
    format!(
        "[...document.querySelectorAll('[data-key={key}] dt')].find((n) => n.innerText === '{name}')?.nextElementSibling.innerText"
    )
}

async fn card(browser: &Browser, key: &str, name: &str) -> Result<Value> {
    browser.eval(&card_of(key, name)).await
}

/// A wrong one hides the keys, the right one shows them, and stays for the tab.
async fn token(browser: &Browser, url: &str) -> Result<()> {
    let shown =
        "!document.getElementById('removals').hidden && document.getElementById('hidden-values').hidden";
    let hidden = "document.getElementById('removals').hidden";
    for (token, said, keys) in [("a-wrong-token-of-27-letters", "refuses", hidden), (TOKEN, "in use", shown)]
    {
        browser
            .eval(&format!(
                "document.getElementById('token').focus(); document.getElementById('token').value = '{token}'"
            ))
            .await?;
        browser.press("Enter").await?;
        browser
            .until(
                said,
                &format!("document.getElementById('access-state').innerText.includes('{said}') && {keys}"),
            )
            .await?;
    }
    browser.open(url).await?;
    browser
        .until(
            "the token is kept",
            &format!("document.getElementById('access-state').innerText.includes('in use') && {shown}"),
        )
        .await?;
    ensure!(!browser.text("body").await?.contains(TOKEN), "the token is shown");
    browser.eval("document.getElementById('forget').click()").await?;
    browser.until("the token is forgotten", "sessionStorage.length === 0 && document.getElementById('access-state').innerText.includes('None')").await
}

/// Redis, pause, the daemon itself.
async fn faults(stage: &mut Stage, browser: &Browser, daemon: &mut Daemon) -> Result<()> {
    let state = |is: &str| format!("document.getElementById('state').innerText === '{is}'");
    stage.redis_down().await?;
    let main = "document.querySelector('#targets [data-key=main]').innerText";
    browser.until("the breaker is open", &format!("{main}.includes('breaker open: ')")).await?;
    browser
        .until("it is said", "document.getElementById('said').innerText.includes('Redis main fails')")
        .await?;
    browser
        .until("the queue fills", "parseInt(document.querySelector('[data-key=queue] dd').innerText) > 0")
        .await?;
    // On a loopback address its values are shown without the token too.
    browser.until("the warning", &logged(".includes('target=main')")).await?;
    ensure!(
        browser.eval("document.getElementById('hidden-values').hidden").await? == true,
        "values are there"
    );
    browser.picture(&pictures("redis-down")).await?;
    stage.redis_up().await?;
    browser.until("the breaker is closed", &format!("{main}.includes('breaker closed')")).await?;

    let post = async |path: &str| {
        let headers = [("Content-Type", "application/json"), ("Authorization", &format!("Bearer {TOKEN}"))];
        let (status, body) = http::ask(stage.admin(), "POST", path, &headers, "{}").await?;
        ensure!(status == 200, "{path}: {status} {body}");
        Ok(())
    };
    post("/pause").await?;
    browser.until("paused", &state("paused")).await?;
    post("/resume").await?;
    browser.until("resumed", &state("active")).await?;

    // Without the daemon nothing looks as if it were new.
    daemon.kill9()?;
    browser.until("the loss", "document.body.classList.contains('stale') && /^Connection lost since \\d\\d:\\d\\d:\\d\\d/.test(document.getElementById('lost').innerText)").await?;
    browser.until("it is named", &state("connection lost")).await?;
    browser.picture(&pictures("lost")).await?;
    *daemon = stage.start().await?;
    browser
        .until("it is back", &format!("!document.body.classList.contains('stale') && {}", state("active")))
        .await?;
    ensure!(browser.text("#lost").await?.is_empty());
    let last = "document.querySelector('#c-rates path').getAttribute('d')";
    let before = browser.eval(last).await?.as_str().unwrap_or_default().matches('M').count();
    // A break, not a line through the time without a connection.
    browser.until("a new line", &format!("{last}.split('M').length - 1 >= {}", before.max(2))).await?;
    browser.until("live figures", "document.getElementById('stopped').innerText === ''").await
}

/// A daemon that waits for its turn has a page too.
async fn standby(stage: &Stage, browser: &Browser) -> Result<()> {
    let port = free_port()?;
    let config = std::fs::read_to_string(stage.config()?)?;
    let mut second =
        config.replace(&format!("127.0.0.1:{}\"", stage.admin()), &format!("127.0.0.1:{port}\""));
    ensure!(second != config, "{config}");
    // Two files on one host would be two daemons of two checkpoints.
    second = second
        .replace(&format!("{}/retry", stage.dir().display()), &format!("{}/retry2", stage.dir().display()));
    let path = stage.dir().join("second.yaml");
    std::fs::write(&path, second)?;
    let daemon = Daemon::start(&path, port, stage.dir().join("second.log"), "")?;
    until("the second waits", WITHIN, async || {
        let answer = http::get(port, "/status").await;
        Ok(Seen::check(answer.is_ok_and(|(status, _)| status == 200), || daemon.log_tail()))
    })
    .await?;
    browser.open(&format!("http://127.0.0.1:{port}/")).await?;
    browser.until("it says so", "document.getElementById('state').innerText === 'standby' && document.getElementById('attention').innerText.includes('has the lease')").await?;
    ensure!(browser.eval("document.getElementById('live').checkVisibility()").await? == false);
    let complaints = browser.complaints();
    ensure!(complaints.is_empty(), "{complaints:?}");
    Ok(())
}

/// Clients of `/events` that read nothing, and more connections that say nothing than there are places: removals go on, and the next
/// clients are served when they are gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_holds_nothing_up() -> Result<()> {
    let Some(stage) = Stage::new(Flavor::MariaDb, "crowd").await? else { return Ok(()) };
    stage.open_shop(20).await?;
    let daemon = stage.start().await?;
    let mut deaf = Vec::new();
    let listen = async || {
        let mut stream = TcpStream::connect(("127.0.0.1", stage.admin())).await?;
        stream.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
        let mut begin = [0; 12];
        stream.read_exact(&mut begin).await?;
        anyhow::Ok((stream, begin == *b"HTTP/1.1 200"))
    };
    for _ in 0..16 {
        let (stream, taken) = listen().await?;
        ensure!(taken, "refused");
        deaf.push(stream);
    }
    let (status, body) = http::get(stage.admin(), "/events").await?;
    ensure!(status == 503 && body.contains("events.full"), "{status} {body}");
    ensure!(http::get(stage.admin(), "/livez").await?.0 == 200);
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(("127.0.0.1", stage.admin())).await?);
    }
    let writing = load(&stage);
    let mut conn = stage.sql().await?;
    let mut cache = shop::redis(stage.redis.port()).await?;
    let mut slowest = Duration::ZERO;
    for n in 0..20 {
        let _: () = redis::cmd("SET").arg("order:77").arg(n).query_async(&mut cache).await?;
        conn.query_drop(format!("REPLACE INTO orders VALUES (77, 1, {n})")).await?;
        let began = Instant::now();
        until("a removal", WITHIN, async || {
            let there: bool = redis::cmd("EXISTS").arg("order:77").query_async(&mut cache.clone()).await?;
            Ok(Seen::check(!there, || daemon.log_tail()))
        })
        .await?;
        slowest = slowest.max(began.elapsed());
    }
    eprintln!("slowest of 20 removals beside 16 deaf listeners and 300 silent connections: {slowest:?}");
    writing.stop().await?;
    drop((deaf, silent));
    stage.quiet(&daemon).await?;
    until("a place is free", WITHIN, async || {
        let (_, taken) = listen().await.context("events")?;
        Ok(Seen::check(taken, String::new))
    })
    .await
}

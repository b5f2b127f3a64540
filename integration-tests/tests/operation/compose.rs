//! `docker-compose.yml`, without an engine: its scripts, configs, options and health checks, run as they stand against private servers. See
//! [`rowbust_integration_tests::terminal`] for what is mapped. The file itself is checked by Docker Compose.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rowbust_integration_tests::compose::{Compose, image_health, quoted, root};
use rowbust_integration_tests::daemon::{Daemon, binary};
use rowbust_integration_tests::terminal::{Terminal, Typed};
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_servers::ports::free_port;
use rowbust_servers::{Kafka, MySql, Need, Redis, StartOptions, require};
use tempfile::TempDir;
use tokio::task::block_in_place;

const WITHIN: Duration = Duration::from_secs(60);
const NEEDS: [Need; 3] = [Need::MySql, Need::Redis8, Need::Kafka];

/// The servers of the compose file, with what it says of them, and their mapped world.
struct World {
    compose: Compose,
    mysql: MySql,
    redis: Arc<Redis>,
    kafka: Kafka,
    terminal: Terminal,
    admin: u16,
    /// What `docker compose exec rowbust` runs on.
    daemon: Arc<Mutex<Option<String>>>,
    dir: TempDir,
}

/// Options of the compose file's servers that say where their files are, which only the test knows.
fn options(dir: &Path, words: &[String]) -> StartOptions {
    words.iter().fold(StartOptions::new(dir), |options, word| options.arg(word))
}

/// Kafka's variables as its image makes `server.properties` of them, without those that say where it is found.
fn properties(compose: &Compose) -> Result<Vec<String>> {
    let places = ["LISTENER", "CONTROLLER_QUORUM", "NODE_ID", "PROCESS_ROLES", "LOG_DIRS"];
    let set = compose.environment("kafka")?.into_iter();
    let lines = set.filter(|(name, _)| !places.iter().any(|place| name.contains(place)));
    let property = |name: &str| name.trim_start_matches("KAFKA_").to_lowercase().replace('_', ".");
    let lines: Vec<String> = lines.map(|(name, value)| format!("{}={value}", property(&name))).collect();
    ensure!(lines.iter().any(|line| line == "auto.create.topics.enable=false"), "{lines:?}");
    Ok(lines)
}

impl World {
    fn start() -> Result<Self> {
        let compose = Compose::read()?;
        let dir = tempfile::Builder::new().prefix("rowbust-compose-").tempdir()?;
        let at = |name: &str| dir.path().join(name);
        let secrets = root().join("deploy/compose/secrets");
        let acl = root().join("deploy/compose/redis/users.acl").display().to_string();
        let redis_words: Vec<String> = compose.command("redis")?[1..]
            .iter()
            .map(|word| word.replace("/etc/redis/users.acl", &acl))
            .collect();
        let (mysql_words, kafka_lines) = (compose.command("mysql")?, properties(&compose)?);
        // Each takes a while to come up.
        let (mysql, redis, kafka) = std::thread::scope(|scope| {
            let mysql = scope.spawn(|| MySql::start(options(&at("mysql"), &mysql_words)));
            let kafka = scope.spawn(|| Kafka::start(options(&at("kafka"), &kafka_lines)));
            let redis = Redis::start_as(Need::Redis8, options(&at("redis"), &redis_words));
            let ended = |_| anyhow::anyhow!("a server's thread ended");
            anyhow::Ok((mysql.join().map_err(ended)??, redis?, kafka.join().map_err(ended)??))
        })?;
        let (redis, admin) = (Arc::new(redis), free_port()?);
        let daemon = Arc::new(Mutex::new(None));
        let answer = {
            let (redis, daemon) = (Arc::clone(&redis), Arc::clone(&daemon));
            move |words: &[String]| Typed::from_result(answer(words, &redis, &daemon))
        };
        let mut terminal = Terminal::new(&at("terminal"), answer)?;
        for (here, there) in [
            ("/run/secrets", secrets.display().to_string()),
            ("/var/lib/rowbust", at("data").display().to_string()),
            ("/etc/rowbust", at("terminal").display().to_string()),
            ("/usr/local/bin/rowbust", binary()?.display().to_string()),
            ("/opt/kafka/bin", at("terminal/bin").display().to_string()),
            ("@mysql:3306", format!("@127.0.0.1:{}", mysql.port())),
            ("//redis:6379", format!("//127.0.0.1:{}", redis.port())),
            ("kafka:9092", kafka.brokers()),
            ("127.0.0.1:9092", kafka.brokers()),
            ("0.0.0.0:8321", format!("127.0.0.1:{admin}")),
        ] {
            terminal.map(here, there);
        }
        fs::create_dir(at("data"))?;
        let client = mysql.programs().client.display();
        terminal.program(
            "mysql",
            &format!(
                "export MYSQL_TCP_PORT={} MYSQL_UNIX_PORT={}\nexec {client} --no-defaults \"$@\"",
                mysql.port(),
                mysql.socket().display()
            ),
        )?;
        let cli = redis.programs().cli.display();
        // A port that is given too comes later, and holds.
        terminal.program("redis-cli", &format!("exec {cli} -p {} \"$@\"", redis.port()))?;
        terminal.asks("docker")?;
        terminal.asks("kafka-topics.sh")?;
        Ok(Self { compose, mysql, redis, kafka, terminal, admin, daemon, dir })
    }

    /// What the image's entry point does on an empty data folder: root's password, then the scripts.
    fn fill(&self) -> Result<()> {
        let secrets = root().join("deploy/compose/secrets");
        let root_password = fs::read_to_string(secrets.join("mysql_root"))?;
        self.terminal.succeeds(&format!(
            "mysql --protocol=socket -uroot -e \"ALTER USER root@localhost IDENTIFIED BY '{root_password}'\""
        ))?;
        let script = root().join("deploy/compose/mysql/10-shop.sh");
        for _ in 0..2 {
            // A second time changes nothing.
            self.terminal.succeeds(&format!("SECRETS={} {}", secrets.display(), script.display()))?;
        }
        Ok(())
    }

    /// A statement as a user of the compose file, by TCP.
    fn sql(&self, user: &str, statement: &str) -> Result<Typed> {
        self.terminal.run(&format!(
            "MYSQL_PWD=$(cat /run/secrets/mysql_{user}) mysql -h 127.0.0.1 -u {user} -N -e {}",
            quoted(&[statement])
        ))
    }

    fn cache(&self, user: &str, command: &str) -> Result<Typed> {
        let login = format!(
            "REDISCLI_AUTH=$(cat /run/secrets/redis_{user}) redis-cli --no-auth-warning -e --user {user}"
        );
        self.terminal.run(&format!("{login} {command}"))
    }

    fn healthy(&self, service: &str) -> Result<bool> {
        Ok(self.terminal.run(&self.compose.health(service)?)?.code == 0)
    }

    /// The application, until it is killed.
    fn load(&self) -> Result<Load> {
        let environment = self.compose.environment("load")?;
        let mut script = String::new();
        for (name, value) in environment.into_iter().map(|(n, v)| (n, self.terminal.mapped(&v))) {
            let value = if name.ends_with("_HOST") { "127.0.0.1".to_owned() } else { value };
            script += &format!("export {name}={}\n", quoted(&[value]));
        }
        let path = self.dir.path().join("load.log");
        script += &format!(
            "export MYSQL_PORT={} REDIS_PORT={} REPORT_SECONDS=1\nexec {} >{}",
            self.mysql.port(),
            self.redis.port(),
            root().join("deploy/compose/load.sh").display(),
            path.display()
        );
        let child = self.terminal.bash(&script, &["bash"])?.stdout(Stdio::null()).spawn()?;
        Ok(Load { child, path })
    }
}

/// What `docker` and `kafka-topics.sh` are asked to do.
fn answer(words: &[String], redis: &Redis, daemon: &Mutex<Option<String>>) -> Result<String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["docker", "compose", "stop", "redis"] => redis.stop().map(|()| String::new()),
        ["docker", "compose", "start", "redis"] => redis.start_again().map(|()| String::new()),
        ["docker", "compose", "exec", "rowbust", "rowbust", args @ ..] => {
            let config = daemon.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let config = config.context("the container doesn't run")?;
            let out = Command::new(binary()?).args(["-c", &config]).args(args).output()?;
            let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
            ensure!(out.status.success(), "{}: {text}", out.status);
            Ok(text)
        }
        // The image's own program, which needs more of Kafka than the broker does.
        ["kafka-topics.sh", "--bootstrap-server", server, "--list"] => {
            let client: BaseConsumer =
                ClientConfig::new().set("bootstrap.servers", *server).set("log_level", "2").create()?;
            let topics = client.fetch_metadata(None, Duration::from_secs(10))?;
            Ok(topics.topics().iter().map(|topic| format!("{}\n", topic.name())).collect())
        }
        _ => bail!("the compose file's test doesn't know {words:?}"),
    }
}

/// The application that runs.
struct Load {
    child: Child,
    path: std::path::PathBuf,
}

/// What it says of itself: `… cached N  STALE N`, as numbers.
#[derive(Debug, Clone, Copy)]
struct Report {
    writes: u64,
    cached: u64,
    stale: u64,
}

impl Load {
    fn lines(&self) -> Vec<String> {
        fs::read_to_string(&self.path).unwrap_or_default().lines().map(ToOwned::to_owned).collect()
    }

    fn reports(&self) -> Vec<Report> {
        let number =
            |line: &str, name: &str| line.split(name).nth(1)?.split_whitespace().next()?.parse::<u64>().ok();
        let report = |line: &String| {
            let (writes, cached) = (number(line, "writes")?, number(line, "cached")?);
            Some(Report { writes, cached, stale: number(line, "STALE")? })
        };
        self.lines().iter().filter_map(report).collect()
    }

    /// Returns when a report that comes from now on is as wanted.
    async fn until(&self, what: &str, good: impl Fn(Report) -> bool) -> Result<Report> {
        let seen = self.reports().len();
        until(what, WITHIN, async || {
            let found = self.reports().into_iter().skip(seen).find(|report| good(*report));
            Ok(found.map_or_else(|| Seen::NotYet(self.lines().join("\n")), Seen::Done))
        })
        .await
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// What the README says under "With Docker", in its order.
fn readme_commands() -> Result<Vec<String>> {
    let text = fs::read_to_string(root().join("README.md"))?;
    let (_, section) = text.split_once("## With Docker").context("no such section")?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut commands = Vec::new();
    for piece in section.split("docker compose").skip(1) {
        let end = piece.find(['`', '#', '\n']).unwrap_or(piece.len());
        commands.push(format!("docker compose{}", &piece[..end]).trim().to_owned());
    }
    Ok(commands)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_in_it_does_its_work() -> Result<()> {
    if require(&NEEDS).is_none() {
        return Ok(());
    }
    let world = block_in_place(World::start)?;
    let world = &world;

    // Health checks log in: before there are accounts they fail, with them they don't.
    block_in_place(|| {
        ensure!(!world.healthy("mysql")?, "healthy without an account and a table");
        world.fill()?;
        for service in ["mysql", "redis", "kafka"] {
            ensure!(
                world.healthy(service)?,
                "{service} isn't healthy: {:?}",
                world.terminal.run(&world.compose.health(service)?)?
            );
        }
        accounts(world)
    })?;

    let config = world.terminal.copy(&root().join("deploy/compose/rowbust.yaml"), "rowbust.yaml")?;
    let health = image_health()?;
    ensure!(block_in_place(|| world.terminal.run(&health))?.code == 1, "healthy without a daemon");
    let mut daemon = Daemon::start(&config, world.admin, world.dir.path().join("daemon.log"), "")?;
    daemon.ready().await?;
    block_in_place(|| world.terminal.succeeds(&health))?;
    *world.daemon.lock().unwrap_or_else(PoisonError::into_inner) = Some(config.display().to_string());

    let load = world.load()?;
    load.until("a warm cache without stale keys", |r| r.cached > 30 && r.writes > 30 && r.stale == 0)
        .await
        .map_err(|e| daemon.explain(&e))?;
    break_it(world, &load, &daemon).await?;
    drop(load);

    // Each health check tells that its server is gone.
    block_in_place(|| {
        world.redis.stop()?;
        world.mysql.stop()?;
        world.kafka.stop()?;
        for service in ["mysql", "redis", "kafka"] {
            ensure!(!world.healthy(service)?, "{service} is healthy while it is down");
        }
        Ok(())
    })
}

/// Each account may do what it is for, and nothing else.
fn accounts(world: &World) -> Result<()> {
    let grants = world.sql("rowbust", "SHOW GRANTS")?.text;
    let wanted = ["GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO", "GRANT SELECT ON `shop`.* TO"];
    ensure!(wanted.iter().all(|grant| grants.contains(grant)) && grants.lines().count() == 2, "{grants}");
    ensure!(world.sql("rowbust", "SELECT COUNT(*) FROM shop.products")?.text.trim() == "500");
    ensure!(world.sql("rowbust", "DELETE FROM shop.products")?.text.contains("denied"));
    ensure!(world.sql("app", "UPDATE shop.products SET price=1 WHERE id=1")?.code == 0);
    ensure!(world.sql("app", "SELECT * FROM mysql.user")?.text.contains("denied"));
    let app = world.cache("app", "SET other 1")?;
    ensure!(app.code == 0, "{app:?}");
    for refused in ["GET other", "FLUSHALL", "KEYS product:*", "UNLINK other"] {
        let said = world.cache("rowbust", refused)?;
        ensure!(said.code != 0 && said.text.contains("NOPERM"), "{refused}: {said:?}");
    }
    let said = world.terminal.run("redis-cli -e GET product:1")?;
    ensure!(said.text.contains("NOAUTH"), "without a login: {said:?}");
    Ok(())
}

/// The README's section, command by command.
async fn break_it(world: &World, load: &Load, daemon: &Daemon) -> Result<()> {
    let commands = readme_commands()?;
    let [up, stop, look, start] = commands.as_slice() else {
        bail!("the README's commands are {commands:?}")
    };
    ensure!(up == "docker compose up --build", "{up}"); // what was done so far
    let empty = block_in_place(|| world.terminal.succeeds(look))?;
    block_in_place(|| world.terminal.succeeds(stop))?;
    ensure!(!block_in_place(|| world.healthy("redis"))?, "healthy while it is stopped");
    let grown = until("a queue that grows", WITHIN, async || {
        let text = block_in_place(|| world.terminal.succeeds(look))?;
        let keys = text.matches("product:").count();
        Ok(if keys > 10 { Seen::Done(text) } else { Seen::NotYet(text) })
    });
    let grown = grown.await.map_err(|e| daemon.explain(&e))?;
    ensure!(!empty.contains("product:"), "before: {empty}");
    eprintln!(
        "{} shows, with Redis stopped:\n{}",
        look,
        grown.lines().take(5).collect::<Vec<_>>().join("\n")
    );
    block_in_place(|| world.terminal.succeeds(start))?;
    until("a queue that empties", WITHIN, async || {
        let text = block_in_place(|| world.terminal.succeeds(look))?;
        Ok(Seen::check(text == empty, || text.clone()))
    })
    .await
    .map_err(|e| daemon.explain(&e))?;
    let after = load.until("no stale key", |r| r.cached > 30 && r.stale == 0).await;
    eprintln!("{:?}; most stale keys at once: {:?}", after?, load.reports().iter().map(|r| r.stale).max());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cluster_is_joined_and_followed() -> Result<()> {
    if require(&NEEDS[..2]).is_none() {
        return Ok(());
    }
    let compose = Compose::read()?;
    let dir = tempfile::Builder::new().prefix("rowbust-compose-").tempdir()?;
    let at = |name: &str| dir.path().join(name);
    let mut terminal = Terminal::new(&at("terminal"), |words| Typed { code: 1, text: format!("{words:?}") })?;
    let words = compose.command("mysql")?;
    let mysql = block_in_place(|| MySql::start(options(&at("mysql"), &words)))?;
    let mut nodes = Vec::new();
    for n in 1..=6 {
        let name = format!("redis-node-{n}");
        let words: Vec<String> =
            compose.command(&name)?[1..].iter().map(|word| word.replace(&name, "127.0.0.1")).collect();
        ensure!(words.iter().any(|word| word == "127.0.0.1"), "{name} says another's name: {words:?}");
        let node = block_in_place(|| Redis::start_as(Need::Redis8, options(&at(&name), &words)))?;
        terminal.map(format!("{name}:6379"), format!("127.0.0.1:{}", node.port()));
        nodes.push(node);
    }
    let cli = nodes[0].programs().cli.display().to_string();
    terminal.program("redis-cli", &format!("exec {cli} \"$@\""))?;
    for node in &nodes {
        let health = compose
            .health("redis-node-1")?
            .replace("redis-cli", &format!("{cli} -p {}", node.port()))
            .replace('\'', "");
        ensure!(terminal.succeeds(&health)?.trim() == "PONG");
    }
    let join = format!(
        "sh {} {}",
        root().join("deploy/compose/redis/join.sh").display(),
        compose.command("redis-cluster-join")?.join(" ")
    );
    block_in_place(|| terminal.succeeds(&join))?;
    ensure!(block_in_place(|| terminal.succeeds(&join))?.trim() == "the cluster is up", "joined twice");
    let state = nodes[5].cli(&["CLUSTER", "INFO"])?;
    ensure!(state.contains("cluster_size:3") && state.contains("cluster_known_nodes:6"), "{state}");

    // Its daemon.
    let (admin, secrets) = (free_port()?, root().join("deploy/compose/secrets"));
    fs::create_dir(at("data"))?;
    terminal.map("/run/secrets", secrets.display().to_string());
    terminal.map("/var/lib/rowbust", at("data").display().to_string());
    terminal.map("@mysql:3306", format!("@127.0.0.1:{}", mysql.port()));
    terminal.map("0.0.0.0:8321", format!("127.0.0.1:{admin}"));
    let client = format!(
        "{} --no-defaults --protocol=socket -S {} -uroot",
        mysql.programs().client.display(),
        mysql.socket().display()
    );
    let script = root().join("deploy/compose/mysql/10-shop.sh");
    block_in_place(|| {
        terminal.succeeds(&format!(
            "SECRETS={} SQL_CLIENT={} {}",
            secrets.display(),
            quoted(&[&client]),
            script.display()
        ))
    })?;
    let config = terminal.copy(&root().join("deploy/compose/rowbust-cluster.yaml"), "rowbust.yaml")?;
    let mut daemon = Daemon::start(&config, admin, at("daemon.log"), "")?;
    daemon.ready().await?;
    let first = nodes[0].port();
    let set: String = (1..=20).map(|id| format!("{cli} -c -p {first} SET product:{id} old\n")).collect();
    let get: String = (1..=20).map(|id| format!("{cli} -c -p {first} EXISTS product:{id}\n")).collect();
    block_in_place(|| {
        terminal.succeeds(&set)?;
        terminal.succeeds(&format!("{client} -e 'UPDATE shop.products SET price = price + 1 WHERE id <= 19'"))
    })?;
    until("all but the last are gone", WITHIN, async || {
        let left = block_in_place(|| terminal.succeeds(&get))?.replace('\n', "");
        Ok(Seen::check(left == format!("{}1", "0".repeat(19)), || left.clone()))
    })
    .await
    .map_err(|e| daemon.explain(&e))
}

#[test]
fn docker_compose_takes_it() -> Result<()> {
    let Some(found) = require(&[Need::Compose]) else { return Ok(()) };
    let program = found.compose.context("no docker-compose")?;
    let config = |profiles: &[&str]| -> Result<String> {
        let mut command = Command::new(&program);
        // Without what this machine may have set.
        for name in ["COMPOSE_FILE", "COMPOSE_PROFILES", "COMPOSE_PROJECT_NAME"] {
            command.env_remove(name);
        }
        for profile in profiles {
            command.args(["--profile", profile]);
        }
        let out = command.current_dir(root()).args(["config", "--services"]).output()?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(out.status.success() && said.is_empty(), "{profiles:?}: {}: {said}", out.status);
        let mut services: Vec<String> =
            String::from_utf8(out.stdout)?.lines().map(ToOwned::to_owned).collect();
        services.sort();
        Ok(services.join(" "))
    };
    ensure!(config(&[])? == "kafka load mysql redis rowbust", "{}", config(&[])?);
    ensure!(config(&["ui"])?.contains("kafka-ui"));
    ensure!(config(&["monitoring"])?.contains("grafana") && config(&["monitoring"])?.contains("prometheus"));
    ensure!(config(&["cluster"])?.contains("redis-cluster-join redis-node-1"));
    ensure!(
        config(&["ui", "monitoring", "cluster"])?.split(' ').count() == 16,
        "{}",
        config(&["ui", "monitoring", "cluster"])?
    );
    Ok(())
}

//! Every public item has an example, or a link to one that uses it.
//!
//! rustdoc's own count of examples isn't stable, and doesn't look at what they call. An example counts if it is compiled and uses the item
//! that it stands at: names its type, calls its function. Instead of an example `Example: see [`Type::method`].` will do, where that one
//! uses the item. Fields and variants are shown by their type's example.
#![allow(clippy::unwrap_used, missing_docs)]

mod api;
mod examples;

use std::path::Path;

use api::{Kind, Public};
use examples::Example;

/// What is wrong with the public items' examples, and how many items there are.
fn mistakes(items: &[Public]) -> Vec<String> {
    let mut mistakes = Vec::new();
    for item in items {
        if let Err(mistake) = judge(item, items) {
            mistakes.push(format!("{}: {mistake}", item.path));
        }
    }
    mistakes
}

fn judge(item: &Public, all: &[Public]) -> Result<(), String> {
    let own = Example::all_in(&item.docs)?;
    if own.iter().any(|example| example.uses(item)) {
        return Ok(());
    }
    let Some(link) = link(&item.docs) else {
        return Err(match own.is_empty() {
            true => "has no example, and no \"Example: see [`…`].\"".to_owned(),
            false => "its example doesn't use it".to_owned(),
        });
    };
    let linked = linked(&item.path, &link, all);
    let [linked] = linked[..] else {
        return Err(format!("its link to {link} leads to {} public items", linked.len()));
    };
    match Example::all_in(&linked.docs)?.iter().any(|example| example.uses(item)) {
        true => Ok(()),
        false => Err(format!("the example of {} doesn't use it", linked.path)),
    }
}

/// Where the docs say that the example is.
fn link(docs: &str) -> Option<String> {
    let text = docs.split_whitespace().collect::<Vec<_>>().join(" ");
    let (_, rest) = text.split_once("Example: see [`")?;
    rest.split_once("`]").map(|(link, _)| link.to_owned())
}

/// What a link in the docs of the item of this path leads to: of several with that name to the nearest, in its own type or module, or in
/// one around it.
fn linked<'a>(path: &str, link: &str, all: &'a [Public]) -> Vec<&'a Public> {
    let around = std::iter::successors(Some(path), |path| path.rsplit_once("::").map(|(around, _)| around));
    let near = around.map(|around| format!("{around}::{link}")).chain([link.to_owned()]);
    if let Some(one) = near.filter_map(|path| all.iter().find(|other| other.path == path)).next() {
        return vec![one];
    }
    let ends = format!("::{link}");
    let mut linked: Vec<&Public> = all.iter().filter(|other| other.path.ends_with(&ends)).collect();
    // One item can have two names.
    linked.dedup_by(|a, b| a.docs == b.docs);
    linked
}

/// The crate's public items, each with an example.
fn all_with_examples(name: &str, directory: &str) -> Vec<Public> {
    let items = api::of(name, &Path::new(env!("CARGO_MANIFEST_DIR")).join(directory));
    let mistakes = mistakes(&items);
    assert!(mistakes.is_empty(), "{} of {} items:\n{}", mistakes.len(), items.len(), mistakes.join("\n"));
    items
}

fn assert_has(items: &[Public], paths: &[&str], expected: bool) {
    for path in paths {
        assert_eq!(items.iter().any(|item| item.path == *path), expected, "{path}");
    }
}

#[test]
fn every_public_item_of_the_client_has_an_example_that_uses_it() {
    let items = all_with_examples("rowbust_client", ".");
    // What is found is what there is: a type, a method in a file of its own, a macro's struct, a trait's method, a module.
    let public = ["Client", "Client::get_many", "Stats", "strategy::Strategy::name", "adapter", "BoxError"];
    assert_has(&items, &public, true);
    // Neither `pub(crate)`, nor hidden, nor a standard trait's.
    let others = ["Redis::query", "strategy::Strategy::lookup", "strategy::Guarded::fill", "Redis::fmt"];
    assert_has(&items, &others, false);
}

#[test]
fn every_public_item_of_the_protocol_has_an_example_that_uses_it() {
    let items = all_with_examples("rowbust_protocol", "../protocol");
    let public =
        ["OWN", "lease::Held", "scripts::Script::ALL", "template::Template::glob", "template::JsonPath"];
    assert_has(&items, &public, true);
    assert_has(&items, &["slots::crc16", "lease::TOKEN_END", "lease::Token::from_hex"], false);
}

#[test]
fn every_public_item_of_the_lab_has_an_example_that_uses_it() {
    let items = all_with_examples("rowbust_lab", "../lab");
    // Of macros too, and both of two that have one name.
    let public = [
        "model::Condition::ALL",
        "model::Mutant::violates",
        "live::Fault::named",
        "summary::Fault",
        "live::thresholds::Threshold",
        "live::World::start",
    ];
    assert_has(&items, &public, true);
    let others = ["live::Fault::VARIANTS", "live::World::flavor", "model::Step", "report::render", "names"];
    assert_has(&items, &others, false);
}

/// Judges one type `Cart` with these two methods' docs, above it `use`s that no docs are asked of.
fn of_cart(new: &str, add: &str) -> Vec<String> {
    let lines = |docs: &str| docs.lines().map(|line| format!("/// {line}\n")).collect::<String>();
    let source = format!(
        "//! ```\n//! use shop as _;\n//! ```\n\
         pub use cart::Cart;\nmod cart {{\n\
         /// ```\n/// let cart = Cart::new();\n/// ```\npub struct Cart;\n\
         impl Cart {{\n{}pub fn new() -> Self {{ Self }}\n{}pub fn add(&self, sku: u32) {{}}\n\
         fn private(&self) {{}}\n}}\n\
         #[cfg(test)]\nmod tests {{ pub struct NotPublic; }}\n}}",
        lines(new),
        lines(add),
    );
    mistakes(&api::of_text(&source))
}

#[test]
fn what_does_not_count_is_found() {
    let new = "Example: see [`Cart`].";
    let example = |code: &str| format!("Adds.\n\n```no_run\n{code}\n```");
    assert_eq!(of_cart(new, &example("Cart::new().add(7);")), [""; 0]);
    assert_eq!(of_cart(new, &example("# let cart = Cart::new();\nassert_eq!(cart.add(7), ());")), [""; 0]);
    assert_eq!(of_cart(new, &example("std::iter::once(7).for_each(|_| Cart::add(&cart, 7));")), [""; 0]);
    for (add, expected) in [
        ("Adds.".to_owned(), "Cart::add: has no example"),
        (example("let cart = Cart::new(); // then cart.add(7)"), "Cart::add: its example doesn't use it"),
        (example("other::add(7); let s = \"cart.add(7)\";"), "Cart::add: its example doesn't use it"),
        (example("# cart.add(7);"), "Cart::add: its example doesn't use it"),
        (example("cart.add("), "Cart::add: its example can't be read"),
        ("Adds.\n\n```ignore\ncart.add(7);\n```".to_owned(), "Cart::add: its example isn't compiled"),
        ("Adds.\n\n```text\ncart.add(7);\n```".to_owned(), "Cart::add: has no example"),
        ("Example: see [`Cart`].".to_owned(), "Cart::add: the example of Cart doesn't use it"),
        ("Example: see [`Basket`].".to_owned(), "Cart::add: its link to Basket leads to 0"),
    ] {
        let found = of_cart(new, &add);
        assert!(found.len() == 1 && found[0].starts_with(expected), "{add}: {found:?}");
    }
    // A linked example counts for the item itself only if it calls it with the type before it.
    let found = of_cart(&example("new();"), &example("cart.add(7);"));
    assert_eq!(found, ["Cart::new: its example doesn't use it"]);
}

#[test]
fn of_two_items_with_one_name_the_nearer_is_meant() {
    let module = |name: &str, code: &str| {
        format!(
            "/// ```\n/// use shop::{name} as _;\n/// ```\npub mod {name} {{\n\
             /// ```\n/// let cart = {code};\n/// ```\npub struct Cart;\n\
             impl Cart {{\n/// Example: see [`Cart`].\npub fn new() -> Self {{ Self }}\n}}\n}}\n"
        )
    };
    let crate_docs = "//! ```\n//! use shop as _;\n//! ```\n";
    let source = format!("{crate_docs}{}{}", module("gifts", "Cart"), module("goods", "Cart::new()"));
    let expected = ["gifts::Cart::new: the example of gifts::Cart doesn't use it"];
    assert_eq!(mistakes(&api::of_text(&source)), expected);
}

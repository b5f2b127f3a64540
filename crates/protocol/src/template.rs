//! Key templates: `product:{id}`, `product:sku:{old.sku}`, `user:{email|lower}`.

/// A compiled key template.
#[derive(Debug, Clone)]
pub struct Template {}

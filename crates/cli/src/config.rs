//! `polymath config show|validate`.

use polymath_node::config::Config;
use polymath_types::{ErrorKind, Failure};
use serde_json::{Value, json};
use toml::Table;

use crate::{args::ConfigVerb, output, session::Session};

pub(crate) fn run(session: &Session, verb: &ConfigVerb) -> Result<(), Failure> {
    let file = session.config_file()?;
    match verb {
        ConfigVerb::Validate => {
            if file.exists() {
                let text = std::fs::read_to_string(&file).map_err(|e| {
                    Failure::new(
                        ErrorKind::Config,
                        format!("cannot read {}: {e}", file.display()),
                    )
                })?;
                Config::parse(&text, &file)?;
            }
            let config = session.config(Table::new())?.config;
            crate::logs::check(&config.log)?;
            for name in &config.experts {
                polymath_node::experts::find(name)?;
            }
            let there = if file.exists() {
                "is valid"
            } else {
                "does not exist: defaults are in force"
            };
            output::print(
                session,
                &json!({ "file": file, "exists": file.exists(), "valid": true }),
                || format!("{} {there}", file.display()),
            );
        }
        ConfigVerb::Show { effective } => {
            let loaded = session.config(Table::new())?;
            let settings = serde_json::to_value(&loaded.config).unwrap_or_default();
            if *effective {
                let rows: Vec<(String, Value, String)> = loaded
                    .sources
                    .iter()
                    .map(|(key, source)| {
                        let pointer = format!("/{}", key.replace('.', "/"));
                        (
                            key.clone(),
                            settings.pointer(&pointer).cloned().unwrap_or_default(),
                            source.to_string(),
                        )
                    })
                    .collect();
                let value: Vec<Value> = rows
                    .iter()
                    .map(|(k, v, s)| json!({ "key": k, "value": v, "source": s }))
                    .collect();
                output::print(session, &json!({ "file": file, "settings": value }), || {
                    let rows: Vec<Vec<String>> = rows
                        .iter()
                        .map(|(k, v, s)| vec![k.clone(), v.to_string(), s.clone()])
                        .collect();
                    output::table(&["KEY", "VALUE", "FROM"], &rows)
                });
            } else {
                output::print(session, &settings, || {
                    toml::to_string_pretty(&loaded.config)
                        .unwrap_or_default()
                        .trim_end()
                        .to_owned()
                });
            }
        }
    }
    Ok(())
}

//! `/openapi.json`: all of this interface, as OpenAPI 3.1.
//!
//! The paths of the document are written by hand; its schemas are those of the types that are serialized, and a test
//! writes them into it. Others hold its paths against the routes, and `.ci/run` holds real answers against all of it.

use axum::http::header;
use axum::response::IntoResponse;

const DOCUMENT: &str = include_str!("openapi.json");

pub(super) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::collections::BTreeSet;
    use std::path::Path;

    use schemars::generate::SchemaSettings;
    use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
    use serde_json::{Value, json};

    use super::DOCUMENT;
    use crate::gate::Receipt;
    use crate::http::events::GateNews;
    use crate::http::gates::{CheckReport, FenceReport, GatesReport};
    use crate::http::identity::IdentityReport;
    use crate::http::problem::Problem;
    use crate::http::routes::SourcesReport;
    use crate::http::routes::tests::paths;
    use crate::ident::TableName;
    use crate::lag::{Event, LagReport, SlotsReport};
    use crate::lsn::Lsn;
    use crate::time::PgTimestamp;

    /// What prints as a text.
    macro_rules! text {
        ($type:ty, $schema:tt) => {
            impl JsonSchema for $type {
                fn inline_schema() -> bool {
                    true
                }

                fn schema_name() -> Cow<'static, str> {
                    stringify!($type).into()
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    json_schema!($schema)
                }
            }
        };
    }

    text!(Lsn, { "type": "string", "pattern": "^[0-9A-F]{1,8}/[0-9A-F]{1,8}$" });
    text!(PgTimestamp, { "type": "string", "format": "date-time" });
    text!(TableName, { "type": "string" });

    fn schemas() -> Value {
        let settings = SchemaSettings::draft2020_12().for_serialize();
        let mut generator =
            settings.with(|settings| settings.definitions_path = "/components/schemas".into()).into_generator();
        generator.subschema_for::<LagReport>();
        generator.subschema_for::<SlotsReport>();
        generator.subschema_for::<SourcesReport>();
        generator.subschema_for::<IdentityReport>();
        generator.subschema_for::<Event>();
        generator.subschema_for::<GateNews>();
        generator.subschema_for::<GatesReport>();
        generator.subschema_for::<CheckReport>();
        generator.subschema_for::<FenceReport>();
        generator.subschema_for::<Receipt>();
        generator.subschema_for::<Problem>();
        let mut schemas: Value = generator.take_definitions(true).into();
        // As parameters spell them.
        schemas["Duration"] = json!({
            "description": "Above zero: 500ms, 5s, 1min 30s, 2h.",
            "type": "string",
            "pattern": "^([1-9][0-9]{0,5}(ms|s|min|m|h))( ?[1-9][0-9]{0,2}(ms|s|min|m|h)){0,2}$",
        });
        schemas["Size"] = json!({
            "description": "Units of 1024: 16MB, 2GB.",
            "type": "string",
            "pattern": "^[0-9]{1,6}(B|kB|KB|KiB|MB|MiB|GB|GiB|TB|TiB)$",
        });
        schemas
    }

    /// `WALGATE_WRITE_SCHEMA=1 cargo test --lib schemas` writes them.
    #[test]
    fn the_schemas_are_those_of_the_types() {
        let mut document: Value = serde_json::from_str(DOCUMENT).unwrap();
        document["components"]["schemas"] = schemas();
        document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
        let text = format!("{document:#}\n");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/openapi.json");
        if std::env::var_os("WALGATE_WRITE_SCHEMA").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "see above this test");
    }

    #[test]
    fn every_route_is_described_and_no_other() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        let described: BTreeSet<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(described, paths().into_iter().collect());
    }

    /// A reference that leads nowhere, or what nothing refers to, is a mistake.
    #[test]
    fn every_reference_leads_somewhere() {
        fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
            match value {
                Value::Object(members) => {
                    found.extend(members.get("$ref").and_then(Value::as_str));
                    members.values().for_each(|value| references(value, found));
                }
                Value::Array(values) => values.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for reference in &found {
            let target = reference.strip_prefix('#').and_then(|pointer| document.pointer(pointer));
            assert!(target.is_some(), "{reference}");
        }
        for kind in ["schemas", "responses", "parameters"] {
            for name in document["components"][kind].as_object().unwrap().keys() {
                let reference = format!("#/components/{kind}/{name}");
                assert!(
                    found.contains(&*reference) || ["Event", "GateNews"].contains(&&**name),
                    "nothing refers to {reference}"
                );
            }
        }
    }
}

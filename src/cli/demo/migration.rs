//! Which table will break somebody? A migration makes one without a key, and walgate says so before the application
//! notices.

use std::time::Instant;

use super::Error;
use super::answers::Finding;
use super::scene::{SLOT, Way};
use super::shop::value;
use super::story::{PATIENCE, Story};

/// As Alembic makes it but for its key, with its first row.
const TABLE: &str = "CREATE TABLE alembic_version (version_num varchar(32) NOT NULL)";
const ROW: &str = "INSERT INTO alembic_version VALUES ('1975ea83b712')";
const NAME: &str = "public.alembic_version";

/// What the next migration does.
const UPDATE: &str = "UPDATE alembic_version SET version_num = 'ae1027a6acf4'";
const VERSION: &str = "SELECT version_num FROM alembic_version";

impl Story {
    pub(super) async fn migrate(&mut self) -> Result<(), Error> {
        self.screen.note("a developer's first migration makes alembic_version, without a key, and so on green")?;
        let Way { blue, green } = &self.scene.session;
        green.batch_execute(TABLE).await?;
        blue.batch_execute(&format!("{TABLE}; {ROW}")).await?;

        let (findings, took) = self.findings_until(|findings| !findings.is_empty()).await?;
        let finding = findings.iter().find(|finding| finding.severity == "error");
        let found = finding.map_or("nothing", |finding| &finding.rule);
        self.check(finding.is_some(), format!("walgate said it within {took:.1} s: {found}, {NAME}"));
        self.screen.note(&format!("walgate says after {took:.1} s:"))?;
        for Finding { rule, severity, message, fix, .. } in &findings {
            self.screen.stay(&format!("   {severity} {rule}, {NAME}: {message}"))?;
            self.screen.stay(&format!("   mend: {}", fix.as_deref().unwrap_or("none by SQL")))?;
        }
        let refused = match self.scene.session.blue.batch_execute(UPDATE).await {
            Ok(()) => "it worked".to_owned(),
            Err(error) => error.as_db_error().map_or_else(|| error.to_string(), |server| server.message().to_owned()),
        };
        self.screen.note(&format!("the next migration's UPDATE meets what it foretold: ERROR: {refused}"))?;
        let foretold = findings.iter().any(|finding| finding.message.contains(&refused));
        self.check(foretold, format!("the application's UPDATE failed as foretold: {refused}"));

        self.enter("check \"$BLUE\" --apply --yes").await?;
        let mend = finding.and_then(|finding| finding.fix.as_deref()).unwrap_or_default();
        self.screen.note("the same on green, which takes the table in")?;
        let green = &self.scene.session.green;
        green.batch_execute(mend).await?;
        green.batch_execute(&format!("ALTER SUBSCRIPTION {SLOT} REFRESH PUBLICATION")).await?;

        let (findings, took) = self.findings_until(<[Finding]>::is_empty).await?;
        self.check(findings.is_empty(), format!("the finding went within {took:.1} s of its mend"));
        let works = self.scene.session.blue.batch_execute(UPDATE).await.is_ok() && self.copied().await?;
        let Way { blue, green } = &self.scene.session;
        let (here, there) = (value(blue, VERSION).await?, value(green, VERSION).await?);
        self.screen.note(&format!("the finding is gone, the UPDATE works, and green has its row: {there}"))?;
        self.check(works && here == there, format!("the UPDATE works, and arrives: {here} on blue, {there} on green"));
        Ok(())
    }

    /// Sells on until walgate's findings about the table are so, or until patience runs out; returns the last of them,
    /// and after how many seconds that was.
    async fn findings_until(&mut self, are_so: impl Fn(&[Finding]) -> bool) -> Result<(Vec<Finding>, f64), Error> {
        let begun = Instant::now();
        loop {
            let findings = self.scene.api.findings(NAME).await?;
            match findings {
                Some(findings) if are_so(&findings) || begun.elapsed() >= PATIENCE => {
                    return Ok((findings, begun.elapsed().as_secs_f64()));
                }
                None if begun.elapsed() >= PATIENCE => return Err("walgate cannot look at the catalog".into()),
                _ => {}
            }
            self.sell("migrating").await?;
        }
    }
}

//! Usage: how much of the platform a tenant used in a day, a week or a month (3-20, 3-21).

use std::collections::HashMap;

use chrono::{DateTime, Datelike as _, Days, Months, NaiveDate, NaiveTime, Utc};
use diesel::{dsl::not, pg::Pg, prelude::*};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use crate::{
    db::Scope,
    error::{Error, Kind, Result},
    events::outbox::Event,
    filter::{self, Condition, Field, FieldKind, Term, Test, TextTest},
    listing::{Listing, no_condition},
    page::{Asked, Place},
    pb,
    rpc::{Call, TenantOfCall, mutate::Change, permit::json_of},
    schema::{tenant_directory, tenant_usage_records, tenants},
    seek,
    tenants::store::{Claim, tenants_in},
    text_enum,
    wire::{Fields, request_id, text, time, timestamp},
};

const BUNDLE_TYPE_MAX: usize = 64;

text_enum! {
    /// What was used.
    pub enum UsageType {
        /// Users.
        Users = "USERS",
        /// Authentications.
        Authentications = "AUTHENTICATIONS",
        /// Proofs of identity.
        Idproofing = "IDPROOFING",
        /// Issued credentials.
        Issuance = "ISSUANCE",
    }
}

text_enum! {
    /// Over which kind of period it is counted.
    pub enum Period {
        /// A day.
        Daily = "DAILY",
        /// A week, from Monday.
        Weekly = "WEEKLY",
        /// A month.
        Monthly = "MONTHLY",
    }
}

impl Period {
    /// The end of the period that starts at a time; none where none does. All of them are in UTC.
    fn end_from(self, start: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let day = start.date_naive();
        let starts = start.time() == NaiveTime::MIN
            && match self {
                Self::Daily => true,
                Self::Weekly => day.weekday() == chrono::Weekday::Mon,
                Self::Monthly => day.day() == 1,
            };
        let end: Option<NaiveDate> = match self {
            Self::Daily => day.checked_add_days(Days::new(1)),
            Self::Weekly => day.checked_add_days(Days::new(7)),
            Self::Monthly => day.checked_add_months(Months::new(1)),
        };
        end.filter(|_| starts).map(|end| end.and_time(NaiveTime::MIN).and_utc())
    }
}

/// What a tenant used in a period.
#[derive(Clone, Debug, PartialEq, Eq, HasQuery, Insertable)]
#[diesel(table_name = tenant_usage_records, primary_key(tenant_uid, usage_id))]
#[diesel(check_for_backend(Pg))]
pub struct Usage {
    /// The tenant that used it.
    pub tenant_uid: Uuid,
    /// UUIDv7.
    pub usage_id: Uuid,
    /// What was used.
    pub usage_type: UsageType,
    /// Over which kind of period it is counted.
    pub aggregation_period: Period,
    /// The start of the period.
    pub start_time: DateTime<Utc>,
    /// The end of the period, which is the start of the next one.
    pub end_time: DateTime<Utc>,
    /// How much.
    pub count: i64,
    /// Whether on trial.
    pub trial: bool,
    /// What was bought with it, or empty.
    pub bundle_type: String,
}

/// What a caller says of a usage.
pub struct NewUsage {
    usage_type: UsageType,
    aggregation_period: Period,
    start_time: DateTime<Utc>,
    end_time: DateTime<Utc>,
    count: i64,
    trial: bool,
    bundle_type: String,
}

impl TryFrom<&pb::RecordUsageRequest> for NewUsage {
    type Error = Error;

    fn try_from(request: &pb::RecordUsageRequest) -> Result<Self> {
        let pb =
            request.usage_record.as_ref().ok_or(Error::invalid("usage_record", "is required"))?;
        let mut fields = Fields::default();
        fields.take("request_id", request_id(&request.request_id));
        let usage_type = fields.take("usage_record.usage_type", read_type(pb.usage_type));
        let period =
            fields.take("usage_record.aggregation_period", read_period(pb.aggregation_period));
        let start = pb.start_time.as_ref().ok_or("is required".to_owned()).and_then(time);
        let start = fields.take("usage_record.start_time", start);
        let end = pb.end_time.as_ref().map(time).transpose();
        let end = fields.take("usage_record.end_time", end);
        let mut end_time = None;
        if let (Some(period), Some(start), Some(end)) = (period, start, end) {
            match (period.end_from(start), end) {
                (None, _) => fields.refuse(
                    "usage_record.start_time",
                    format!("is not the start of a {} period in UTC", period.as_str()),
                ),
                (Some(right), Some(end)) if end != right => fields.refuse(
                    "usage_record.end_time",
                    format!("is not the end of the period: leave it out or send {right:?}"),
                ),
                (right, _) => end_time = right,
            }
        }
        if pb.count < 0 {
            fields.refuse("usage_record.count", "is negative");
        }
        let bundle_type =
            fields.take("usage_record.bundle_type", text(&pb.bundle_type, 0, BUNDLE_TYPE_MAX));
        fields.finish()?;
        let (
            Some(usage_type),
            Some(aggregation_period),
            Some(start_time),
            Some(end_time),
            Some(bundle_type),
        ) = (usage_type, period, start, end_time, bundle_type)
        else {
            return Err(Error::internal("a field was refused without a violation"));
        };
        Ok(Self {
            usage_type,
            aggregation_period,
            start_time,
            end_time,
            count: pb.count,
            trial: pb.trial,
            bundle_type,
        })
    }
}

fn read_type(value: i32) -> Result<UsageType, String> {
    match pb::UsageType::try_from(value) {
        Ok(pb::UsageType::Users) => Ok(UsageType::Users),
        Ok(pb::UsageType::Authentications) => Ok(UsageType::Authentications),
        Ok(pb::UsageType::Idproofing) => Ok(UsageType::Idproofing),
        Ok(pb::UsageType::Issuance) => Ok(UsageType::Issuance),
        Ok(pb::UsageType::Unspecified) | Err(_) => {
            Err("is required: USAGE_TYPE_ and USERS, AUTHENTICATIONS, IDPROOFING or ISSUANCE"
                .to_owned())
        }
    }
}

fn read_period(value: i32) -> Result<Period, String> {
    match pb::AggregationPeriod::try_from(value) {
        Ok(pb::AggregationPeriod::Daily) => Ok(Period::Daily),
        Ok(pb::AggregationPeriod::Weekly) => Ok(Period::Weekly),
        Ok(pb::AggregationPeriod::Monthly) => Ok(Period::Monthly),
        Ok(pb::AggregationPeriod::Unspecified) | Err(_) => {
            Err("is required: AGGREGATION_PERIOD_ and DAILY, WEEKLY or MONTHLY".to_owned())
        }
    }
}

/// Records what a tenant used.
///
/// # Errors
///
/// When that was recorded for the period already.
pub async fn record(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    new: &NewUsage,
) -> Result<pb::UsageRecord> {
    let NewUsage { usage_type, aggregation_period, start_time, end_time, .. } = *new;
    if start_time > change.now {
        let why = "is in the future: a period is recorded once it has begun";
        return Err(Error::invalid("usage_record.start_time", why));
    }
    let usage = Usage {
        tenant_uid: tenant.uid,
        usage_id: change.uuid(),
        usage_type,
        aggregation_period,
        start_time,
        end_time,
        count: new.count,
        trial: new.trial,
        bundle_type: new.bundle_type.clone(),
    };
    // Periods of one kind have one start or nothing in common, so that the index keeps them apart.
    let rows = diesel::insert_into(tenant_usage_records::table)
        .values(&usage)
        .on_conflict_do_nothing()
        .execute(change.conn())
        .await?;
    if rows == 0 {
        let (what, period) = (usage_type.as_str(), aggregation_period.as_str());
        let id = format!("{period} {what} from {}", start_time.format("%Y-%m-%d"));
        return Err(Error::AlreadyExists { kind: Kind::UsageRecord, what: "period", id });
    }
    let record = told(usage, tenant.tenant_id.clone());
    change
        .record(Event {
            kind: "usage_record.created",
            account_id: Some(&tenant.account_id),
            tenant: Some((tenant.uid, &tenant.tenant_id)),
            resource_type: "usage_record",
            resource_id: &record.usage_id,
            before: None,
            after: Some(json_of(&record)),
        })
        .await?;
    Ok(record)
}

/// The record as it looks from outside.
fn told(usage: Usage, tenant_id: String) -> pb::UsageRecord {
    let Usage {
        tenant_uid: _,
        usage_id,
        usage_type,
        aggregation_period,
        start_time,
        end_time,
        count,
        trial,
        bundle_type,
    } = usage;
    let usage_type = match usage_type {
        UsageType::Users => pb::UsageType::Users,
        UsageType::Authentications => pb::UsageType::Authentications,
        UsageType::Idproofing => pb::UsageType::Idproofing,
        UsageType::Issuance => pb::UsageType::Issuance,
    };
    let aggregation_period = match aggregation_period {
        Period::Daily => pb::AggregationPeriod::Daily,
        Period::Weekly => pb::AggregationPeriod::Weekly,
        Period::Monthly => pb::AggregationPeriod::Monthly,
    };
    pb::UsageRecord {
        usage_id: usage_id.to_string(),
        tenant_id,
        usage_type: usage_type.into(),
        aggregation_period: aggregation_period.into(),
        start_time: Some(timestamp(start_time)),
        end_time: Some(timestamp(end_time)),
        count,
        trial,
        bundle_type,
    }
}

const FIELDS: &[Field] = &[
    Field { name: "start_time", kind: FieldKind::Time },
    Field { name: "end_time", kind: FieldKind::Time },
    Field { name: "tenant_id", kind: FieldKind::Id },
    Field { name: "trial", kind: FieldKind::Bool },
    Field {
        name: "usage_type",
        kind: FieldKind::Word { prefix: "USAGE_TYPE_", words: UsageType::TEXTS },
    },
];

/// A list of usage that was asked for.
pub struct Query(Listing);

impl Query {
    /// Reads a request.
    ///
    /// # Errors
    ///
    /// What is wrong with its filter, order or page; a filter that does not say from or until when.
    pub fn read(call: &Call, request: &pb::ListUsageRequest) -> Result<Self> {
        let pb::ListUsageRequest { page_size, page_token, filter, order_by } = request;
        let asked = Asked { page_size: *page_size, page_token, filter, order_by, more: "" };
        let listing = Listing::read(call, asked, FIELDS, &["start_time"])?;
        filter::demand(&listing.terms, "start_time")?;
        filter::refuse_negated(&listing.terms, &["tenant_id", "trial", "usage_type"])?;
        Ok(Self(listing))
    }

    /// Reads the page; answers its records and the token of the next one.
    ///
    /// # Errors
    ///
    /// What the database reports.
    pub async fn run(
        &self,
        conn: &mut AsyncPgConnection,
        scope: &Scope,
    ) -> Result<(Vec<pb::UsageRecord>, String)> {
        let Listing { page, terms, order } = &self.0;
        let within = tenants_in(scope).into_boxed::<Pg>().select(tenants::uid);
        let mut query = tenant_usage_records::table
            .into_boxed::<Pg>()
            .filter(tenant_usage_records::tenant_uid.eq_any(within));
        for term in terms {
            let condition = condition(term)?;
            query =
                if term.negated { query.filter(not(condition)) } else { query.filter(condition) };
        }
        let after = match &page.after {
            None => None,
            Some(place) => {
                let id = place.id.parse::<Uuid>().map_err(|_| page.misplaced())?;
                Some((page.time(place)?, tenant_usage_records::usage_id.gt(id)))
            }
        };
        let query = seek!(query, tenant_usage_records::start_time, after, order.descending);
        let mut found: Vec<Usage> = query
            .then_order_by(tenant_usage_records::usage_id)
            .limit(page.limit())
            .select(Usage::as_select())
            .load(conn)
            .await?;
        let token = page.finish(&mut found, |row| Place {
            value: row.start_time.timestamp_micros().to_string(),
            id: row.usage_id.to_string(),
        });

        let uids = found.iter().map(|usage| usage.tenant_uid).collect::<Vec<_>>();
        let ids: HashMap<Uuid, String> = tenants_in(scope)
            .filter(tenants::uid.eq_any(uids))
            .select((tenants::uid, tenants::tenant_id))
            .load(conn)
            .await?
            .into_iter()
            .collect();
        let tell = |usage: Usage| {
            let tenant_id = ids.get(&usage.tenant_uid).cloned().unwrap_or_default();
            told(usage, tenant_id)
        };
        Ok((found.into_iter().map(tell).collect(), token))
    }
}

fn condition(term: &Term) -> Result<Condition<tenant_usage_records::table>> {
    Ok(match (term.field, &term.test) {
        ("start_time", Test::Time(comparison, time)) => {
            filter::time(tenant_usage_records::start_time, *comparison, *time)
        }
        ("end_time", Test::Time(comparison, time)) => {
            filter::time(tenant_usage_records::end_time, *comparison, *time)
        }
        ("tenant_id", Test::Text(TextTest::Equals(id))) => match id.parse::<Uuid>() {
            Ok(uid) => Box::new(tenant_usage_records::tenant_uid.eq(uid)),
            Err(_) => {
                let named = tenant_directory::table
                    .filter(tenant_directory::kind.eq(Claim::TenantId.as_str()))
                    .filter(tenant_directory::key.eq(id.clone()))
                    .select(tenant_directory::tenant_uid);
                Box::new(tenant_usage_records::tenant_uid.eq_any(named))
            }
        },
        ("trial", Test::Bool(value)) => Box::new(tenant_usage_records::trial.eq(*value)),
        ("usage_type", Test::Choice(word)) => Box::new(tenant_usage_records::usage_type.eq(*word)),
        (field, _) => return Err(no_condition(field)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_period_starts_with_a_day_a_monday_or_a_month() {
        for (period, start, end) in [
            (Period::Daily, "2026-02-28T00:00:00Z", Some("2026-03-01T00:00:00Z")),
            (Period::Daily, "2026-02-28T00:00:01Z", None),
            (Period::Weekly, "2026-11-23T00:00:00Z", Some("2026-11-30T00:00:00Z")),
            (Period::Weekly, "2026-11-24T00:00:00Z", None),
            (Period::Monthly, "2026-12-01T00:00:00Z", Some("2027-01-01T00:00:00Z")),
            (Period::Monthly, "2026-12-02T00:00:00Z", None),
            (Period::Monthly, "2026-12-01T00:00:00.000001Z", None),
        ] {
            assert_eq!(period.end_from(at(start)), end.map(at), "{period:?} {start}");
        }
    }
}

//! Products and their packages: what an account sells, and what installations are of (1-51).

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use diesel::{dsl::not, pg::Pg, prelude::*};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::{account_of, accounts, owned_by_account, still_in_use, tell};
use crate::{
    error::{Error, Kind, Result},
    filter::{self, Condition, Field, FieldKind, Test},
    listing::{Listing, no_condition},
    mask::masked,
    page::{Asked, Place},
    pb,
    rpc::{
        Call,
        mutate::{Change, check_etag, etag},
    },
    schema::{product_packages, products},
    seek,
    wire::{Fields, prose, request_id, text, timestamp},
};

const PACKAGES_MAX: usize = 100;
const DESCRIPTION_MAX: usize = 1_000;

/// What an account sells.
#[derive(Clone, Debug, PartialEq, Eq, HasQuery, Insertable, AsChangeset)]
#[diesel(table_name = products, primary_key(account_id, product_code), check_for_backend(Pg))]
pub struct Product {
    /// Whose it is.
    pub account_id: String,
    /// Chosen, immutable.
    pub product_code: String,
    /// Display name.
    pub name: String,
    /// What it is.
    pub description: String,
    /// When it was created.
    pub create_time: DateTime<Utc>,
    /// When it was changed last.
    pub update_time: DateTime<Utc>,
    /// Counts the changes.
    pub version: i64,
}

/// One form in which a product is sold.
#[derive(Clone, Debug, PartialEq, Eq, HasQuery, Insertable, AsChangeset)]
#[diesel(table_name = product_packages, primary_key(account_id, product_code, package_code))]
#[diesel(check_for_backend(Pg))]
#[expect(clippy::struct_field_names, reason = "the columns' own names")]
struct Package {
    account_id: String,
    product_code: String,
    package_code: String,
    name: String,
    description: String,
    position: i32,
}

owned_by_account!(products);

/// A product with its packages, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProductRecord {
    product: Product,
    packages: Vec<Package>,
}

/// Reads the code of a product or package: 4 to 64 letters and digits.
///
/// # Errors
///
/// What would be right.
pub fn read_code(code: &str) -> Result<String, String> {
    if (4..=64).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_alphanumeric()) {
        Ok(code.to_owned())
    } else if code.is_empty() {
        Err("is required".to_owned())
    } else {
        Err("is not 4 to 64 characters of A-Z, a-z and 0-9".to_owned())
    }
}

/// The code of a package without that of its product before it (1-21).
fn bare_code<'a>(product_code: &str, package_code: &'a str) -> &'a str {
    package_code
        .strip_prefix(product_code)
        .and_then(|rest| rest.strip_prefix('_'))
        .unwrap_or(package_code)
}

/// Reads the code of a package, given alone or with that of its product before it (1-21).
///
/// # Errors
///
/// What would be right.
pub fn read_package_code(product_code: &str, package_code: &str) -> Result<String, String> {
    read_code(bare_code(product_code, package_code))
}

/// Reads the packages of a product, noting what is wrong with each.
fn read_packages(pb: &pb::Product, account_id: &str, fields: &mut Fields) -> Vec<Package> {
    if pb.packages.len() > PACKAGES_MAX {
        fields.refuse(
            "product.packages",
            format!("are {}, of which at most {PACKAGES_MAX} are allowed", pb.packages.len()),
        );
        return Vec::new();
    }
    let mut seen = HashSet::new();
    let mut read = Vec::with_capacity(pb.packages.len());
    for ((number, package), position) in pb.packages.iter().enumerate().zip(0..) {
        let at = |field: &str| format!("product.packages[{number}].{field}");
        let code = bare_code(&pb.product_code, &package.package_code);
        let package_code = fields.take(&at("package_code"), read_code(code));
        if package_code.is_some() && !seen.insert(code) {
            fields.refuse(&at("package_code"), "is there more than once");
        }
        let name = fields.take(&at("name"), text(&package.name, 1, 80));
        let description =
            fields.take(&at("description"), prose(&package.description, DESCRIPTION_MAX));
        let (Some(package_code), Some(name), Some(description)) = (package_code, name, description)
        else {
            continue;
        };
        read.push(Package {
            account_id: account_id.to_owned(),
            product_code: pb.product_code.clone(),
            package_code,
            name,
            description,
            position,
        });
    }
    read
}

/// Checks that an account has a product and, of it, a package.
///
/// # Errors
///
/// `PRODUCT_OR_PACKAGE_UNKNOWN`, or what the database reports.
pub async fn require_package(
    conn: &mut AsyncPgConnection,
    account_id: &str,
    product_code: &str,
    package_code: &str,
) -> Result<()> {
    let package_code = bare_code(product_code, package_code);
    let found: i64 = product_packages::table
        .find((account_id, product_code, package_code))
        .count()
        .get_result(conn)
        .await?;
    if found == 1 {
        Ok(())
    } else {
        Err(Error::not_found(Kind::Product, format!("{product_code}_{package_code}")))
    }
}

/// Adds the packages of products.
async fn complete(
    conn: &mut AsyncPgConnection,
    products: Vec<Product>,
) -> Result<Vec<ProductRecord>> {
    let codes = products.iter().map(|product| &product.product_code).collect::<Vec<_>>();
    let rows: Vec<Package> = Package::query()
        .filter(product_packages::product_code.eq_any(codes))
        .order(product_packages::position)
        .load(conn)
        .await?;
    let mut packages = HashMap::<(String, String), Vec<Package>>::new();
    for row in rows {
        packages.entry((row.account_id.clone(), row.product_code.clone())).or_default().push(row);
    }
    let record = |product: Product| {
        let key = (product.account_id.clone(), product.product_code.clone());
        ProductRecord { packages: packages.remove(&key).unwrap_or_default(), product }
    };
    Ok(products.into_iter().map(record).collect())
}

async fn complete_one(conn: &mut AsyncPgConnection, product: Product) -> Result<ProductRecord> {
    let record = complete(conn, vec![product]).await?.pop();
    record.ok_or_else(|| Error::internal("one product in, none out"))
}

/// Finds a product.
pub(super) async fn find(
    conn: &mut AsyncPgConnection,
    call: &Call,
    request: &pb::GetProductRequest,
) -> Result<ProductRecord> {
    let account_id = account_of(call, "account_id", &request.account_id)?;
    let code = named("product_code", &request.product_code)?;
    let product = rows_of(call)
        .filter(products::account_id.eq(account_id))
        .filter(products::product_code.eq(code))
        .select(Product::as_select())
        .get_result(conn)
        .await
        .optional()?
        .ok_or_else(|| Error::not_found(Kind::Product, code))?;
    complete_one(conn, product).await
}

fn named<'a>(field: &str, code: &'a str) -> Result<&'a str> {
    read_code(code).map(|_| code).map_err(|why| Error::invalid(field, why))
}

/// Finds a product and keeps others from changing it until the transaction ends.
async fn hold(change: &mut Change<'_>, account_id: &str, code: &str) -> Result<ProductRecord> {
    let product = rows_of(change.call)
        .filter(products::account_id.eq(account_id))
        .filter(products::product_code.eq(code))
        .select(Product::as_select())
        .for_update()
        .get_result(change.conn())
        .await
        .optional()?
        .ok_or_else(|| Error::not_found(Kind::Product, code))?;
    complete_one(change.conn(), product).await
}

/// Creates a product with its packages.
pub(super) async fn create(
    change: &mut Change<'_>,
    request: &pb::CreateProductRequest,
) -> Result<pb::Product> {
    let pb = request.product.as_ref().ok_or(Error::invalid("product", "is required"))?;
    let account_id = account_of(change.call, "product.account_id", &pb.account_id)?;
    let mut fields = Fields::default();
    fields.take("request_id", request_id(&request.request_id));
    let code = fields.take("product.product_code", read_code(&pb.product_code));
    let name = fields.take("product.name", read_name(pb));
    let description = fields.take("product.description", read_description(pb));
    let packages = read_packages(pb, &account_id, &mut fields);
    fields.finish()?;
    let (Some(product_code), Some(name), Some(description)) = (code, name, description) else {
        return Err(Error::internal("a field was refused without a violation"));
    };
    accounts::require(change.conn(), &account_id).await?;
    let now = change.now;
    let product = Product {
        account_id,
        product_code,
        name,
        description,
        create_time: now,
        update_time: now,
        version: 1,
    };
    let rows = diesel::insert_into(products::table)
        .values(&product)
        .on_conflict_do_nothing()
        .execute(change.conn())
        .await?;
    if rows == 0 {
        let id = product.product_code;
        return Err(Error::AlreadyExists { kind: Kind::Product, what: "product_code", id });
    }
    diesel::insert_into(product_packages::table).values(&packages).execute(change.conn()).await?;
    let told = pb::Product::from(ProductRecord { product, packages });
    let owner = Some(&*told.account_id);
    tell(change, "product.created", owner, &told.product_code, None, Some(&told)).await?;
    Ok(told)
}

fn read_name(pb: &pb::Product) -> Result<String, String> {
    text(pb.name.as_deref().unwrap_or_default(), 1, 80)
}

fn read_description(pb: &pb::Product) -> Result<String, String> {
    prose(pb.description.as_deref().unwrap_or_default(), DESCRIPTION_MAX)
}

const FIXED: &[&str] = &["product_code", "account_id", "create_time", "update_time", "etag"];

/// Changes a product; its packages as a whole.
pub(super) async fn update(
    change: &mut Change<'_>,
    request: &pb::UpdateProductRequest,
) -> Result<pb::Product> {
    let pb = request.product.as_ref().ok_or(Error::invalid("product", "is required"))?;
    let account_id = account_of(change.call, "product.account_id", &pb.account_id)?;
    let present = [
        ("name", pb.name.is_some()),
        ("description", pb.description.is_some()),
        ("packages", !pb.packages.is_empty()),
    ];
    let paths = masked(request.update_mask.as_ref(), &present, FIXED)?;
    let mut fields = Fields::default();
    let named_in = |path| paths.contains(&path);
    let name = named_in("name").then(|| fields.take("product.name", read_name(pb)));
    let description =
        named_in("description").then(|| fields.take("product.description", read_description(pb)));
    let packages = named_in("packages").then(|| read_packages(pb, &account_id, &mut fields));
    fields.finish()?;

    let code = named("product.product_code", &pb.product_code)?;
    let before = hold(change, &account_id, code).await?;
    let sent = if request.etag.is_empty() { &pb.etag } else { &request.etag };
    check_etag(sent, before.product.version, Kind::Product, code)?;
    let mut after = before.clone();
    after.product.name = name.flatten().unwrap_or(after.product.name);
    after.product.description = description.flatten().unwrap_or(after.product.description);
    after.packages = packages.unwrap_or(after.packages);
    if after == before {
        return Ok(before.into());
    }
    after.product.update_time = change.now;
    after.product.version += 1;
    diesel::update(products::table.find((&account_id, code)))
        .set(&after.product)
        .execute(change.conn())
        .await?;
    if after.packages != before.packages {
        replace_packages(change, &account_id, code, &after.packages).await?;
    }
    let (before, after) = (pb::Product::from(before), pb::Product::from(after));
    let owner = Some(&*account_id);
    tell(change, "product.updated", owner, code, Some(&before), Some(&after)).await?;
    Ok(after)
}

/// Those that stay are changed in place, since installations may point at them.
async fn replace_packages(
    change: &mut Change<'_>,
    account_id: &str,
    code: &str,
    packages: &[Package],
) -> Result<()> {
    let kept = packages.iter().map(|package| &package.package_code).collect::<Vec<_>>();
    diesel::delete(
        product_packages::table
            .filter(product_packages::account_id.eq(account_id))
            .filter(product_packages::product_code.eq(code))
            .filter(not(product_packages::package_code.eq_any(kept))),
    )
    .execute(change.conn())
    .await
    .map_err(|error| still_in_use(error, Kind::Product, code, "installations of a package"))?;
    for package in packages {
        diesel::insert_into(product_packages::table)
            .values(package)
            .on_conflict((
                product_packages::account_id,
                product_packages::product_code,
                product_packages::package_code,
            ))
            .do_update()
            .set(package)
            .execute(change.conn())
            .await?;
    }
    Ok(())
}

/// Deletes a product that is installed nowhere.
pub(super) async fn delete(
    change: &mut Change<'_>,
    request: &pb::DeleteProductRequest,
) -> Result<()> {
    let account_id = account_of(change.call, "account_id", &request.account_id)?;
    let code = named("product_code", &request.product_code)?;
    let before = hold(change, &account_id, code).await?;
    check_etag(&request.etag, before.product.version, Kind::Product, code)?;
    diesel::delete(products::table.find((&account_id, code)))
        .execute(change.conn())
        .await
        .map_err(|error| still_in_use(error, Kind::Product, code, "installations"))?;
    let before = pb::Product::from(before);
    tell(change, "product.deleted", Some(&account_id), code, Some(&before), None).await
}

const FIELDS: &[Field] = &[
    Field { name: "product_code", kind: FieldKind::Text },
    Field { name: "name", kind: FieldKind::Text },
    Field { name: "create_time", kind: FieldKind::Time },
];

const ORDERS: &[&str] = &["product_code", "name", "create_time"];

/// Reads a page of products and the token of the next one.
pub(super) async fn list(
    conn: &mut AsyncPgConnection,
    call: &Call,
    request: &pb::ListProductsRequest,
) -> Result<(Vec<ProductRecord>, String)> {
    let pb::ListProductsRequest { page_size, page_token, filter, order_by } = request;
    let asked = Asked { page_size: *page_size, page_token, filter, order_by, more: "" };
    let list = Listing::read(call, asked, FIELDS, ORDERS)?;
    let mut query = rows_of(call).into_boxed::<Pg>();
    for term in &list.terms {
        let condition: Condition<products::table> = match (term.field, &term.test) {
            ("product_code", Test::Text(test)) => filter::text(products::product_code, test),
            ("name", Test::Text(test)) => filter::text(products::name, test),
            ("create_time", Test::Time(comparison, time)) => {
                filter::time(products::create_time, *comparison, *time)
            }
            (field, _) => return Err(no_condition(field)),
        };
        query = if term.negated { query.filter(not(condition)) } else { query.filter(condition) };
    }
    let after = list.owner_and_id()?.map(|(value, account, id)| {
        let same = products::account_id.eq(account.clone());
        let behind = products::account_id.gt(account).or(same.and(products::product_code.gt(id)));
        (value, behind)
    });
    let down = list.order.descending;
    let query = match list.order.field {
        "name" => seek!(query, products::name, after, down),
        "create_time" => {
            let after = match (&list.page.after, after) {
                (Some(place), Some((_, behind))) => Some((list.page.time(place)?, behind)),
                _ => None,
            };
            seek!(query, products::create_time, after, down)
        }
        _ => seek!(query, products::product_code, after, down),
    };
    let found: Vec<Product> = query
        .then_order_by((products::account_id, products::product_code))
        .limit(list.page.limit())
        .select(Product::as_select())
        .load(conn)
        .await?;
    let mut found = complete(conn, found).await?;
    let bytes = |record: &ProductRecord| {
        let packages = record.packages.iter();
        packages.map(|package| package.name.len() + package.description.len() + 100).sum()
    };
    let token =
        list.page.finish_within(&mut found, bytes, |ProductRecord { product: row, .. }| {
            let value = match list.order.field {
                "name" => row.name.clone(),
                "create_time" => row.create_time.timestamp_micros().to_string(),
                _ => row.product_code.clone(),
            };
            Place { value, id: format!("{}/{}", row.account_id, row.product_code) }
        });
    Ok((found, token))
}

impl From<ProductRecord> for pb::Product {
    fn from(ProductRecord { product, packages }: ProductRecord) -> Self {
        let Product {
            account_id,
            product_code,
            name,
            description,
            create_time,
            update_time,
            version,
        } = product;
        let package = |Package { package_code, name, description, .. }: Package| pb::Package {
            package_code,
            name,
            description,
        };
        Self {
            product_code,
            account_id,
            name: Some(name),
            description: Some(description),
            packages: packages.into_iter().map(package).collect(),
            create_time: Some(timestamp(create_time)),
            update_time: Some(timestamp(update_time)),
            etag: etag(version),
        }
    }
}

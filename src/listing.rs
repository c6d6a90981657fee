//! Lists that are asked for: which page of which rows, in which order.

use crate::{
    error::{Error, Result},
    filter::{self, Field, Order, Term},
    page::{Asked, Page},
    rpc::Call,
};

/// A list that was asked for.
pub struct Listing {
    /// Which page of it.
    pub page: Page,
    /// What is true of its rows, all of it.
    pub terms: Vec<Term>,
    /// The order of its rows.
    pub order: Order,
}

impl Listing {
    /// Reads a request for a list with these fields and orders. The filter and the order are those of the
    /// page, which may have come with its token.
    ///
    /// # Errors
    ///
    /// What is wrong with its filter, order or page.
    pub fn read(
        call: &Call,
        asked: Asked<'_>,
        fields: &'static [Field],
        orders: &[&'static str],
    ) -> Result<Self> {
        let page = Page::read(call, asked)?;
        let terms = filter::read(&page.filter, fields)?;
        let order = filter::read_order(&page.order_by, orders)?;
        Ok(Self { page, terms, order })
    }

    /// The parts of a place of rows that are told apart by account and id.
    ///
    /// # Errors
    ///
    /// A place that has no such parts: the token was not given by this list.
    pub fn owner_and_id(&self) -> Result<Option<(String, String, String)>> {
        let Some(place) = &self.page.after else {
            return Ok(None);
        };
        let (account, id) = place.id.split_once('/').ok_or_else(|| self.page.misplaced())?;
        Ok(Some((place.value.clone(), account.to_owned(), id.to_owned())))
    }
}

/// A term of a filter for which a list has no condition: a bug of ours.
pub fn no_condition(field: &str) -> Error {
    Error::internal(format!("no condition for the field {field}"))
}

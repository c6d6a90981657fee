drop function find_customer, offer_of, find_consent;

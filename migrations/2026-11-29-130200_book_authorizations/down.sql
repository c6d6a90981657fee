drop function book_authorizations;

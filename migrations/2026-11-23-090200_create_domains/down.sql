drop table domains;

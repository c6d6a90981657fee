drop table environments;

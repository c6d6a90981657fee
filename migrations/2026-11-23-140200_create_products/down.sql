drop table product_packages;
drop table products;

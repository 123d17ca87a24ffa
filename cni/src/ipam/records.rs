//! The objects of IPAM in the datastore, by type. Every write compares and swaps: whoever lost a race gets nothing, and reads again.

use std::sync::Arc;

use tortie_api::calico::{
    BlockAffinity, IpPool, IpReservation, IpamBlock, IpamConfiguration, IpamHandle, KubeControllersConfiguration,
};
use tortie_api::k8s::{Namespace, Node, Pod};
use tortie_api::{Kind, Object, ObjectKey, ObjectMeta};
use tortie_datastore::{Datastore, Error};

/// A kind of object that IPAM reads.
pub trait Record: Sized + Send {
    /// The kind.
    const KIND: Kind;

    /// The object, if it is of the kind.
    fn of(object: Object) -> Option<Self>;

    /// The same as any object.
    fn into_object(self) -> Object;

    /// Its metadata.
    fn metadata(&self) -> &ObjectMeta;

    /// Whether somebody marked it before deleting it, as Calico does, which knows no other way to compare and delete. Such an object is
    /// as good as gone.
    fn is_deleted(&self) -> bool {
        false
    }
}

macro_rules! records {
    ($($type:ident $(, $deleted:tt)?;)+) => {
        $(impl Record for $type {
            const KIND: Kind = Kind::$type;

            fn of(object: Object) -> Option<Self> {
                if let Object::$type(object) = object { Some(object) } else { None }
            }

            fn into_object(self) -> Object {
                Object::$type(self)
            }

            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }

            $(fn is_deleted(&self) -> bool {
                self.spec.$deleted
            })?
        })+
    };
}

records! {
    IpamBlock, deleted;
    BlockAffinity, deleted;
    IpamHandle, deleted;
    IpamConfiguration;
    IpReservation;
    IpPool;
    Namespace;
    Node;
    Pod;
}

impl Record for KubeControllersConfiguration {
    const KIND: Kind = Kind::KubeControllersConfiguration;

    fn of(object: Object) -> Option<Self> {
        if let Object::KubeControllersConfiguration(object) = object { Some(*object) } else { None }
    }

    fn into_object(self) -> Object {
        Object::KubeControllersConfiguration(Box::new(self))
    }

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

/// The datastore, as IPAM sees it.
#[derive(Clone)]
pub struct Records {
    datastore: Arc<dyn Datastore>,
}

impl Records {
    /// The records of a datastore.
    pub fn new(datastore: Arc<dyn Datastore>) -> Self {
        Self { datastore }
    }

    /// An object without a namespace, if it is there.
    pub async fn get<T: Record>(&self, name: &str) -> Result<Option<T>, Error> {
        self.get_in(None, name).await
    }

    /// An object, if it is there.
    pub async fn get_in<T: Record>(&self, namespace: Option<&str>, name: &str) -> Result<Option<T>, Error> {
        let key = ObjectKey { kind: T::KIND, namespace: namespace.map(str::to_owned), name: name.to_owned() };
        let found = match self.datastore.get(&key).await {
            Ok(object) => T::of(object),
            Err(Error::NotFound(_)) => None,
            Err(error) => return Err(error),
        };
        match found {
            Some(marked) if marked.is_deleted() => {
                // Whoever marked it may have died before he deleted it, and nobody can make it anew until somebody does.
                self.delete(&marked).await?;
                Ok(None)
            }
            other => Ok(other),
        }
    }

    /// All objects of a kind.
    pub async fn list<T: Record>(&self) -> Result<Vec<T>, Error> {
        Ok(those(self.datastore.list(T::KIND).await?))
    }

    /// Shows all objects of a kind, one after the other.
    pub async fn visit<T: Record>(&self, see: &mut (dyn FnMut(T) + Send)) -> Result<(), Error> {
        let mut see = |object| {
            if let Some(record) = T::of(object).filter(|record| !record.is_deleted()) {
                see(record);
            }
        };
        self.datastore.visit(T::KIND, &mut see).await
    }

    /// Those that have a label with this value.
    pub async fn list_labelled<T: Record>(&self, label: &str, value: &str) -> Result<Vec<T>, Error> {
        Ok(those(self.datastore.list_labelled(T::KIND, label, value).await?))
    }

    /// Makes an object; nothing if somebody else did.
    pub async fn create<T: Record>(&self, record: T) -> Result<Option<T>, Error> {
        match self.datastore.create(&record.into_object()).await {
            Ok(made) => Ok(T::of(made)),
            Err(Error::AlreadyExists(_) | Error::Conflict(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes an object; nothing if somebody else changed or deleted it since it was read.
    pub async fn update<T: Record>(&self, record: T) -> Result<Option<T>, Error> {
        match self.datastore.update(&record.into_object()).await {
            Ok(written) => Ok(T::of(written)),
            Err(Error::Conflict(_) | Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes an object; false if somebody else changed it since it was read. One that is gone already is deleted.
    pub async fn delete<T: Record>(&self, record: &T) -> Result<bool, Error> {
        let metadata = record.metadata();
        let key = ObjectKey { kind: T::KIND, namespace: metadata.namespace.clone(), name: metadata.name.clone() };
        let version = metadata.resource_version.as_deref().unwrap_or_default();
        match self.datastore.delete(&key, version).await {
            Ok(()) | Err(Error::NotFound(_)) => Ok(true),
            Err(Error::Conflict(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn those<T: Record>(objects: Vec<Object>) -> Vec<T> {
    objects.into_iter().filter_map(T::of).filter(|record| !record.is_deleted()).collect()
}
